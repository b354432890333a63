// The service. The key lives in this module's memory only: no cookie, no storage, gone with the tab.

let key = "";

export function useKey(text) {
  key = text.trim();
}

export class Problem extends Error {
  constructor(status, told, retryAfter) {
    super(told.detail || "the service did not say why");
    this.status = status;
    this.remedy = told.remedy || "";
    this.code = told.code || "unknown";
    this.requestId = told.request_id || "";
    this.retryAfter = retryAfter;
  }
}

async function ask(path, options = {}) {
  const headers = { ...(options.body ? { "content-type": "application/json" } : {}), ...(key ? { authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers, credentials: "omit", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: "The service cannot be reached.", remedy: "Is m3 serve still running?", code: "unreachable" });
  }
  let told = {};
  try {
    told = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(response.status, { detail: "The service's answer cannot be read." });
  }
  if (!response.ok) throw new Problem(response.status, told, Number(response.headers.get("retry-after")) || 0);
  return told;
}

export async function collection() {
  return (await ask("/v1/collections")).collections[0];
}

export function search(name, body, signal) {
  return ask(`/v1/collections/${encodeURIComponent(name)}/search`, { method: "POST", body: JSON.stringify(body), signal });
}
