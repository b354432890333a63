// The page: reads the link, asks, draws. See index.html for its parts.

import { Problem, collection, search, useKey } from "./api.js";
import { $, count, direction, make, plain, show } from "./dom.js";
import { arrange, draw, reorder } from "./hits.js";
import { PAGE, SIGNALS, condition, fresh, fromFragment, toBody, toFragment } from "./state.js";

const QUIET_MS = 200;
const SETTLE_MS = 350;

let facts = null; // the collection
let asked = fresh();
let answer = null;
let running = null; // the search under way
let explained = null; // one request for the reasons of the page shown
let settling = 0;

async function start() {
  bind();
  asked = fromFragment(location.hash);
  await meet();
}

// Learn what can be searched; ask for a key where that is needed; then search what the link says.
async function meet() {
  try {
    facts = await collection();
  } catch (error) {
    fail(error);
    return;
  }
  show($("door"), false);
  show($("failed"), false);
  show($("side"), true);
  $("collection").textContent = facts.name;
  document.title = facts.name;
  const options = [...Object.keys(facts.presets).map((name) => make("option", { value: name }, name)), make("option", { value: "", hidden: "" }, "own weights")];
  $("preset").replaceChildren(...options);
  const fields = Object.entries(facts.fields).map(([name, type]) => `${name} (${type})`);
  $("own-fields").textContent = `Fields: ${["language (string)", ...fields].join(", ")}.`;
  drawControls();
  if (asked.query) await run();
  else welcome();
}

function welcome() {
  answer = null;
  $("hits").replaceChildren();
  for (const id of ["empty", "banner", "facets", "foot", "more", "failed"]) show($(id), false);
  show($("welcome"), true);
  $("status").textContent = facts.rows ? "" : "Nothing in this collection is visible to you yet.";
  $("query").focus();
}

async function run() {
  if (!facts) return;
  if (running) running.abort();
  const mine = (running = new AbortController());
  explained = null;
  const slow = setTimeout(() => document.body.classList.add("waiting"), QUIET_MS);
  show($("welcome"), false);
  mirror();
  drawControls();
  try {
    answer = await search(facts.name, toBody(asked, Object.keys(facts.fields)), mine.signal);
    drawAnswer();
  } catch (error) {
    if (error.name !== "AbortError") fail(error);
  } finally {
    clearTimeout(slow);
    if (running === mine) {
      running = null;
      document.body.classList.remove("waiting");
    }
  }
}

function change(changes) {
  asked = { ...asked, ...changes };
  const fragment = toFragment(asked);
  if (fragment !== location.hash.slice(1)) history.pushState(null, "", fragment ? `#${fragment}` : location.pathname);
  return asked.query ? run() : welcome();
}

function fail(error) {
  $("hits").replaceChildren();
  answer = null;
  for (const id of ["empty", "banner", "facets", "foot", "more", "welcome"]) show($(id), false);
  $("status").textContent = "";
  const locked = error instanceof Problem && error.status === 401;
  show($("door"), locked);
  show($("failed"), !locked);
  show($("side"), facts !== null && !locked);
  if (locked) {
    if ($("key").value) $("door-why").textContent = "That key opens nothing here: it is unknown, revoked or expired.";
    $("key").focus();
    return;
  }
  const wait = error.retryAfter ? ` Ask again in ${error.retryAfter} s.` : "";
  $("failed-why").textContent = sentence(error.message) + wait;
  $("failed-remedy").textContent = [error.remedy && sentence(error.remedy), error.requestId && `Request ${error.requestId}`].filter(Boolean).join(" ");
}

function drawAnswer() {
  show($("failed"), false);
  show($("door"), false);
  draw(answer.hits, explain);
  arrange(answer.hits);
  drawBanner();
  drawFacets();
  drawEmpty();
  const some = answer.hits.length;
  const ranked = answer.candidates === 1 ? "one candidate" : `${answer.candidates.toLocaleString("en")} candidates`;
  $("status").textContent = some ? `${count(some, "hit")}, the best of ${ranked}` : "";
  const coverage = answer.degraded ? "partial" : "full";
  const stages = Object.entries(answer.timings_ms).map(([stage, ms]) => `${stage} ${ms < 10 ? ms.toFixed(1) : Math.round(ms)}`);
  $("foot").textContent = `coverage ${coverage} · ms: ${stages.join(" · ")} · generation ${answer.generation}`;
  show($("foot"), true);
  show($("more"), some >= asked.limit && asked.limit < 100);
}

function drawBanner() {
  const lost = Object.entries(answer.coverage).filter(([, state]) => state !== "ok").map(([signal]) => signal);
  show($("banner"), answer.degraded);
  if (!answer.degraded) return;
  const causes = lost.map((signal) => `${signal} is missing (${answer.why[signal] || "not available"})`).join("; ");
  const means = { dense: "Answers in other words or languages may rank too low.", lexical: "Exact words and names count for less.", multi: "The fine order of the hits is rougher." };
  const rest = SIGNALS.filter((signal) => answer.weights[signal] !== undefined).join(" and ");
  $("banner").textContent = `${sentence(causes)} ${lost.map((signal) => means[signal] || "").join(" ")} The ranking rests on ${rest}.`;
}

function drawFacets() {
  const told = answer.facets;
  // A field whose values are nearly all different (a date, a number) gives nothing to choose from.
  const telling = told.documents / 20;
  const rows = Object.entries(told.fields)
    .filter(([field, values]) => values.some(({ value, count: documents }) => asked.filters.includes(condition(field, value)) || (values.length > 1 && documents > 1 && documents >= telling)))
    .map(([field, values]) => {
      const buttons = values.slice(0, 8).map(({ value, count: documents }) => {
        const where = condition(field, value);
        const on = asked.filters.includes(where);
        return make("button", { class: "chip", type: "button", "aria-pressed": String(on), onclick: () => toggleFilter(where) },
          make("bdi", {}, plain(value)), make("span", { class: "count" }, String(documents)));
      });
      return make("div", { class: "facet", role: "group", "aria-label": field }, make("span", {}, field), make("div", {}, ...buttons));
    });
  $("facets").replaceChildren(make("p", {}, `Counted over the best ${count(told.documents, "candidate document")}, not the whole collection`), ...rows);
  show($("facets"), rows.length > 0);
}

function drawEmpty() {
  const empty = answer.empty;
  show($("empty"), empty !== null);
  if (empty === null) return;
  $("empty-why").textContent = `“${asked.query}”: ${sentence(empty.reason)}`;
  const drops = empty.conditions.filter(({ without }) => without > 0).sort((one, other) => other.without - one.without).map(({ condition: where, without }) => {
    const mine = asked.filters.find((filter) => filter === where);
    const drop = () => change({ filters: mine ? asked.filters.filter((filter) => filter !== where) : [], limit: PAGE });
    return make("li", {}, make("button", { type: "button", onclick: drop }, mine ? "Drop " : "Drop all filters; without ", make("code", {}, where), ` → ${count(without, "row")}`));
  });
  if (!drops.length && asked.filters.length) drops.push(make("li", {}, make("button", { type: "button", onclick: () => change({ filters: [], limit: PAGE }) }, "Drop all filters")));
  $("empty-drops").replaceChildren(...drops);
}

function drawControls() {
  $("query").value = asked.query;
  const chips = asked.filters.map((filter) =>
    make("button", { class: "chip on", type: "button", "aria-label": `remove ${filter}`, onclick: () => toggleFilter(filter) }, make("bdi", {}, filter), " ×"));
  $("chips").replaceChildren(...chips);
  show($("chips"), chips.length > 0);
  drawWeights(asked.weights || facts.presets[asked.preset] || facts.presets[facts.default_preset], !asked.weights);
}

function drawWeights(weights, named) {
  const total = SIGNALS.reduce((sum, signal) => sum + weights[signal], 0) || 1;
  const largest = Math.max(...SIGNALS.map((signal) => weights[signal]), 1e-9);
  $("preset").value = named ? asked.preset || facts.default_preset : "";
  for (const signal of SIGNALS) {
    const input = $(`w-${signal}`);
    // A preset of 1, 0.3, 1 fills the sliders; own weights stay where they were put.
    if (document.activeElement !== input) input.value = String(Math.round(named ? (100 * weights[signal]) / largest : weights[signal]));
    const share = `${Math.round((100 * weights[signal]) / total)} %`;
    input.parentElement.querySelector("output").textContent = share;
    input.setAttribute("aria-valuetext", share);
    input.disabled = facts.signals.length > 0 && !facts.signals.includes(signal);
  }
}

function moved() {
  const weights = Object.fromEntries(SIGNALS.map((signal) => [signal, Number($(`w-${signal}`).value)]));
  if (!SIGNALS.some((signal) => weights[signal] > 0)) return;
  drawWeights(weights, false);
  if (answer) reorder(answer.hits, weights);
  clearTimeout(settling);
  settling = setTimeout(() => change({ weights, preset: "" }), SETTLE_MS);
}

function toggleFilter(filter) {
  const filters = asked.filters.includes(filter) ? asked.filters.filter((one) => one !== filter) : [...asked.filters, filter];
  return change({ filters, limit: PAGE });
}

// The reasons of one hit: asked for once for all hits shown, when the first "why" is opened.
async function explain(id) {
  if (!explained) {
    const { facets, snippet, ...body } = toBody(asked, []);
    explained = search(facts.name, { ...body, explain: true });
    explained.catch(() => { explained = null; });
  }
  return (await explained).hits.find((hit) => hit.id === id);
}

// A question in Arabic or Hebrew mirrors the layout; so does a browser in such a language.
function mirror() {
  const own = /^(ar|he|fa|ur|ps|ckb|yi)\b/.test(navigator.language) ? "rtl" : "ltr";
  document.documentElement.dir = direction(asked.query) || own;
}

function sentence(text) {
  const full = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.?!]$/.test(full) ? full : `${full}.`;
}

function step(by) {
  const items = Array.from($("hits").children);
  if (!items.length) return;
  const at = items.findIndex((item) => item.contains(document.activeElement));
  items[Math.min(items.length - 1, Math.max(0, at + by))].focus();
}

function bind() {
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    change({ query: $("query").value.trim(), limit: PAGE });
  });
  $("door-form").addEventListener("submit", (event) => {
    event.preventDefault();
    useKey($("key").value);
    meet();
  });
  $("own-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const filter = $("own-text").value.trim();
    if (filter && !asked.filters.includes(filter)) change({ filters: [...asked.filters, filter], limit: PAGE });
    $("own-text").value = "";
  });
  $("preset").addEventListener("change", () => change({ preset: $("preset").value, weights: null }));
  for (const signal of SIGNALS) $(`w-${signal}`).addEventListener("input", moved);
  $("weights").addEventListener("submit", (event) => event.preventDefault());
  $("retry").addEventListener("click", () => (facts ? run() : meet()));
  $("more").addEventListener("click", () => change({ limit: Math.min(100, asked.limit + PAGE) }));
  addEventListener("popstate", () => {
    asked = fromFragment(location.hash);
    if (facts) asked.query ? run() : (drawControls(), welcome());
  });
  addEventListener("keydown", (event) => {
    const typing = document.activeElement?.matches("input:not([type=range]), select, textarea");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") { event.preventDefault(); $("query").select(); }
    else if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
  });
}

start();
