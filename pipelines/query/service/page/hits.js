// Hits: drawn once per answer, reordered when a weight moves, explained on request.

import { $, count, make, marked, plain, show } from "./dom.js";
import { SIGNALS } from "./state.js";

export function draw(hits, explain) {
  const template = $("hit");
  $("hits").replaceChildren(
    ...hits.map((hit) => {
      const item = template.content.cloneNode(true).firstElementChild;
      const part = (name) => item.querySelector(`.${name}`);
      part("title").textContent = plain(hit.title || hit.doc_id);
      part("language").textContent = hit.language;
      const date = hit.metadata.published || hit.metadata.date || hit.metadata.year;
      part("date").textContent = date === undefined ? "" : plain(date);
      const snippet = hit.snippet;
      part("snippet").append(snippet.cut_before ? "… " : "", ...marked(snippet.text, snippet.marks), snippet.cut_after ? " …" : "");
      const more = [hit.further_chunks ? count(hit.further_chunks, "more part") : "", hit.same_text.length ? count(hit.same_text.length, "copy").replace("copys", "copies") : ""];
      part("source").textContent = [`${plain(hit.doc_id)}#${hit.ordinal}`, ...more].filter(Boolean).join(" · ");
      const why = part("why");
      const reasons = part("reasons");
      reasons.id = `reasons-${hit.id}`;
      why.setAttribute("aria-controls", reasons.id);
      why.setAttribute("aria-label", `why “${plain(hit.title || hit.doc_id)}”`);
      why.addEventListener("click", () => toggle(hit, why, reasons, explain));
      item.dataset.id = hit.id;
      return item;
    }),
  );
}

// Scores of the shown hits under other weights: the same weighted sum that the service computes.
export function reorder(hits, weights) {
  const total = SIGNALS.reduce((sum, signal) => sum + (weights[signal] || 0), 0) || 1;
  const scored = hits.map((hit) => {
    const parts = SIGNALS.map((signal) => ((weights[signal] || 0) / total) * (hit.signals[signal]?.raw ?? 0));
    return { hit, parts, score: parts.reduce((sum, part) => sum + part, 0) };
  });
  scored.sort((one, other) => other.score - one.score || (one.hit.id < other.hit.id ? -1 : 1));
  place(scored);
}

// Scores as the service told them.
export function arrange(hits) {
  place(hits.map((hit) => ({ hit, parts: SIGNALS.map((signal) => hit.signals[signal]?.contribution ?? 0), score: hit.score })));
}

function place(scored) {
  const list = $("hits");
  const items = new Map(Array.from(list.children, (item) => [item.dataset.id, item]));
  const longest = Math.max(...scored.map((one) => one.parts.reduce((sum, part) => sum + Math.max(0, part), 0)), 1e-9);
  let previous = null;
  for (const { hit, parts, score } of scored) {
    const item = items.get(hit.id);
    const stack = item.querySelector(".stack");
    SIGNALS.forEach((signal, i) => {
      stack.children[i].style.inlineSize = `${(100 * Math.max(0, parts[i])) / longest}%`;
    });
    stack.setAttribute("aria-label", SIGNALS.map((signal, i) => `${signal} ${parts[i].toFixed(3)}`).join(", "));
    item.querySelector(".score").textContent = score.toFixed(3);
    // Moves only what has to move, so that the focus stays where it is.
    const next = previous ? previous.nextSibling : list.firstChild;
    if (next !== item) list.insertBefore(item, next);
    previous = item;
  }
}

async function toggle(hit, button, box, explain) {
  const open = button.getAttribute("aria-expanded") !== "true";
  button.setAttribute("aria-expanded", String(open));
  show(box, open);
  if (!open) return;
  box.replaceChildren(table(hit));
  try {
    const told = await explain(hit.id);
    box.replaceChildren(table(told || hit), ...reasons(told));
  } catch (error) {
    if (error.name !== "AbortError") box.append(make("p", { class: "quiet" }, error.message));
  }
}

function table(hit) {
  const rows = SIGNALS.filter((signal) => hit.signals[signal]).map((signal) => {
    const told = hit.signals[signal];
    const raw = told.raw === null ? "–" : told.raw.toFixed(3);
    const cells = [raw, `× ${told.weight.toFixed(2)}`, `= ${told.contribution.toFixed(3)}`, told.rank === null ? "–" : `#${told.rank}`, told.origin];
    return make("tr", {}, make("th", { scope: "row" }, signal), ...cells.map((cell) => make("td", {}, cell)));
  });
  const head = ["", "raw", "weight", "part", "rank", ""].map((name) => make("th", name ? { scope: "col" } : {}, name));
  return make("table", {}, make("caption", { class: "hidden" }, "How the score came about"), make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
}

function reasons(hit) {
  if (!hit || !hit.explanation) return [make("p", { class: "quiet" }, "Further reasons are given for the first 20 hits.")];
  const { tokens, alignments } = hit.explanation;
  const boxes = [];
  if (tokens.length) boxes.push(list("Words in both", "lex", tokens.slice(0, 12).map((one) => [word(one.token), one.product])));
  if (alignments.length) boxes.push(list("Words that met", "mul", alignments.slice(0, 12).map((one) => [`${word(one.query)} → ${word(one.passage) || "·"}`, one.value])));
  return boxes.length ? boxes : [make("p", { class: "quiet" }, "No words in common: only the meaning as a whole.")];
}

function list(title, kind, pairs) {
  const largest = Math.max(...pairs.map(([, value]) => value), 1e-9);
  const items = pairs.map(([text, value]) => {
    const item = make("li", { class: "token" }, make("bdi", {}, text), " ", make("small", {}, value.toFixed(2)));
    item.style.setProperty("--part", String(Math.max(0, value / largest)));
    return item;
  });
  return make("div", {}, make("h4", {}, title), make("ul", { class: `tokens ${kind}` }, ...items));
}

// A tokenizer's piece as people read it: its mark for a word's beginning is a space.
function word(token) {
  return plain(token).replace(/\u2581/g, " ").trim();
}
