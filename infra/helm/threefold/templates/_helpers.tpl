{{- define "threefold.name" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "threefold.selector" -}}
app.kubernetes.io/name: threefold
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "threefold.labels" -}}
{{ include "threefold.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* The image of a target: (list . "serve") */ -}}
{{- define "threefold.image" -}}
{{- $root := index . 0 -}}
{{ $root.Values.image.registry }}/{{ index . 1 }}:{{ default $root.Chart.AppVersion $root.Values.image.tag }}
{{- end }}

{{- /* What every pod of ours says of itself. */ -}}
{{- define "threefold.pod" -}}
serviceAccountName: {{ include "threefold.name" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- /* What every container of ours says: nothing to write but its volumes, and the secrets by reference. */ -}}
{{- define "threefold.container" -}}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- with .Values.secret }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
volumeMounts:
  - {name: config, mountPath: /etc/m3, readOnly: true}
  - {name: state, mountPath: /var/lib/m3}
  - {name: cache, mountPath: /var/cache/m3}
  - {name: tmp, mountPath: /tmp}
  {{- if .Values.documents.existingClaim }}
  - {name: documents, mountPath: /srv/documents, readOnly: true}
  {{- end }}
{{- end }}

{{- define "threefold.volumes" -}}
- name: config
  configMap: {name: {{ include "threefold.name" . }}, defaultMode: 0555}
- name: state
  persistentVolumeClaim: {claimName: {{ default (printf "%s-state" (include "threefold.name" .)) .Values.state.existingClaim }}}
- name: cache
  emptyDir: {}
- name: tmp
  emptyDir: {}
{{- with .Values.documents.existingClaim }}
- name: documents
  persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}
{{- end }}
{{- end }}
