// What is asked, and the link that asks it again. The link is in the fragment: it never reaches a server or its logs.

export const SIGNALS = ["dense", "lexical", "multi"];
export const PAGE = 10;
const MOST = 100;

export function fresh() {
  return { query: "", filters: [], preset: "", weights: null, limit: PAGE };
}

export function fromFragment(fragment) {
  const asked = fresh();
  const given = new URLSearchParams(fragment.replace(/^#/, ""));
  asked.query = (given.get("q") || "").slice(0, 8192);
  asked.filters = given.getAll("f").filter((text) => text.trim());
  asked.preset = given.get("p") || "";
  const weights = (given.get("w") || "").split(",").map(Number);
  if (weights.length === 3 && weights.every((w) => w >= 0 && Number.isFinite(w)) && weights.some((w) => w > 0)) {
    asked.weights = Object.fromEntries(SIGNALS.map((signal, i) => [signal, weights[i]]));
  }
  const limit = Number(given.get("n"));
  if (Number.isInteger(limit) && limit > 0) asked.limit = Math.min(limit, MOST);
  return asked;
}

export function toFragment(asked) {
  const given = new URLSearchParams();
  if (asked.query) given.set("q", asked.query);
  for (const filter of asked.filters) given.append("f", filter);
  if (asked.weights) given.set("w", SIGNALS.map((signal) => asked.weights[signal]).join(","));
  else if (asked.preset) given.set("p", asked.preset);
  if (asked.limit !== PAGE) given.set("n", String(asked.limit));
  return given.toString();
}

export function toBody(asked, fields) {
  const body = { query: asked.query, limit: asked.limit, snippet: 260, facets: ["language", ...fields].slice(0, 16) };
  if (asked.filters.length) body.filter = asked.filters.length === 1 ? asked.filters[0] : asked.filters.map((one) => `(${one})`).join(" and ");
  if (asked.weights) body.weights = asked.weights;
  else if (asked.preset) body.preset = asked.preset;
  return body;
}

// A condition in the filter language's canonical form, so that it can be told from others.
export function condition(field, value) {
  return `${field} = ${literal(value)}`;
}

function literal(value) {
  if (typeof value !== "string") return String(value);
  const short = { "\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t" };
  return `"${value.replace(/[\\"\n\r\t\u0000-\u001f\u007f-\u009f]/g, (c) => short[c] || `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`)}"`;
}
