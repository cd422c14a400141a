// The passages that were looked at: kept text, structure and dropped text, the most important passage first.

import { element, number } from "./elements.js";

const CONTEXT_CHARS = 180; // of dropped text that stays visible next to kept text
const REASONS = {
  score: "for its importance",
  structure: "because a kept sentence belongs to it",
  keep: "because a pattern says so",
  first: "as the first of its document",
  last: "as the last of its document",
  floor: "as the best of its document",
  context: "as the neighbour of a kept sentence",
  cut: "in part: its best words",
  whole: "because everything fits",
};

// Passages in order of worth. `textOf` gives the text of a file by its index as a function of a range.
export function passagesOf(compression, files) {
  const passages = compression.documents.map((passage, index) => {
    const file = files[passage.document];
    const whole = passage.spans.map(([start, end]) => ({ start, end, kept: true, reason: "whole", importance: null, tokens: passage.tokens_after }));
    const units = (passage.units?.length ? passage.units : whole).map((unit, i) => ({ ...unit, id: `unit-${index}-${i}`, text: file.slice(unit.start, unit.end) }));
    const worth = Math.max(-Infinity, ...units.filter((unit) => unit.kept).map((unit) => unit.importance ?? -Infinity));
    return { ...passage, index, file, units, worth, hasKept: units.some((unit) => unit.kept) };
  });
  return passages.sort((a, b) => b.hasKept - a.hasKept || b.worth - a.worth || a.index - b.index);
}

export function pageOf(file, place) {
  const page = (file.document.page_starts || []).filter((start) => start <= place).length;
  return page ? `p. ${page}` : "";
}

export function showSources(place, passages) {
  const importances = passages.flatMap(({ units }) => units.map((unit) => unit.importance)).filter((value) => value !== null);
  importances.sort((a, b) => b - a);
  const rank = (unit) => (unit.importance === null ? 0 : importances.indexOf(unit.importance) + 1);
  const context = { rank, count: importances.length };
  const cards = passages.map((passage, i) => card(passage, i + 1, passages, context));
  const kept = passages.filter(({ hasKept }) => hasKept).length;
  place.replaceChildren(...cards.slice(0, kept));
  if (kept < cards.length) {
    const rest = cards.length - kept;
    const summary = `${rest} more ${rest === 1 ? "passage was" : "passages were"} read, and nothing of it kept`;
    place.append(element("details", { id: "more" }, element("summary", {}, summary), ...cards.slice(kept)));
  }
}

function card(passage, place, passages, context) {
  const { file } = passage;
  const text = element("div", { class: "text marks" });
  const detail = element("p", { class: "detail quiet", "aria-live": "polite" });
  text.append(...pieces(passage, passages, context));
  const first = text.querySelector(".kept") || text.querySelector(".unit");
  if (first) first.tabIndex = 0;
  text.addEventListener("focusin", ({ target }) => {
    const unit = passage.units.find(({ id }) => id === target.id);
    if (!unit) return;
    text.querySelectorAll(".unit[tabindex='0']").forEach((other) => (other.tabIndex = -1));
    target.tabIndex = 0;
    detail.textContent = description(unit, context);
  });
  text.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || !event.target.classList.contains("unit")) return;
    const visible = [...text.querySelectorAll(".unit")].filter((unit) => unit.getClientRects().length);
    visible[visible.indexOf(event.target) + step]?.focus();
    event.preventDefault();
  });
  const where = [file.name, pageOf(file, passage.units.find((unit) => unit.kept)?.start ?? passage.start)].filter(Boolean).join(", ");
  const tokens = `${number(passage.tokens_after)} of ${number(passage.tokens_before)} tokens kept`;
  return element("article", { class: "source" }, element("h3", {}, `${place}. ${where}`, element("span", {}, tokens)), text, detail);
}

function description(unit, { rank, count }) {
  const importance = unit.importance === null ? "" : `Importance ${rank(unit)} of ${count} (${unit.importance.toFixed(2)}) · `;
  const fate = unit.kept ? `kept ${REASONS[unit.reason] || ""}`.trim() : "dropped";
  return `${importance}${number(unit.tokens)} tokens · ${fate}`;
}

// The text between the neighbouring passages of the same file, with long dropped runs folded.
function pieces(passage, passages, context) {
  const { file, units, start, end } = passage;
  const others = passages.filter((other) => other.file === file && other !== passage);
  const before = Math.max(0, ...others.filter((other) => other.end <= start).map((other) => other.end));
  const after = Math.min(file.length, ...others.filter((other) => other.start >= end).map((other) => other.start));
  const parts = [{ from: before, to: start }];
  let at = start;
  for (const unit of units) {
    parts.push({ unit, from: at, to: unit.end });
    at = unit.end;
  }
  parts.push({ from: at, to: end, isGlue: true }, { from: end, to: after });
  const shown = [];
  for (let i = 0; i < parts.length; ) {
    let next = i;
    while (next < parts.length && !parts[next].unit?.kept) next++;
    shown.push(...run(parts.slice(i, next), i > 0, next < parts.length, passage, context));
    if (next < parts.length) shown.push(...rendered(parts[next], passage, context));
    i = next + 1;
  }
  // a fold begins and ends a line of its own
  return shown.map((part, i) => {
    if (typeof part !== "string") return part;
    const start = i === 0 || shown[i - 1].className === "fold" ? part.trimStart() : part;
    return i === shown.length - 1 || shown[i + 1].className === "fold" ? start.trimEnd() : start;
  });
}

function run(parts, followsKept, precedesKept, passage, context) {
  const take = (from, step) => {
    let count = 0;
    let chars = 0;
    for (let i = from; parts[i]?.unit || parts[i]?.isGlue; i += step) {
      chars += parts[i].to - parts[i].from;
      if (count && chars > CONTEXT_CHARS) break;
      count++;
    }
    return count;
  };
  const head = followsKept ? take(0, 1) : 0;
  const tail = precedesKept ? Math.min(take(parts.length - 1, -1), parts.length - head) : 0;
  const render = (some) => some.flatMap((part) => rendered(part, passage, context));
  const middle = parts.slice(head, parts.length - tail);
  const folded = middle.filter((part) => passage.file.slice(part.from, part.to).trim());
  const dropped = folded.filter((part) => part.unit);
  const unread = folded.filter((part) => !part.unit).reduce((sum, part) => sum + part.to - part.from, 0);
  const chars = folded.reduce((sum, part) => sum + part.to - part.from, 0);
  if (!unread && (chars < CONTEXT_CHARS || dropped.length < 2)) return render(parts);
  const label = [
    dropped.length ? `${dropped.length} dropped` : "",
    unread ? `${number(unread)} characters not looked at` : "",
  ].filter(Boolean);
  const fold = element("details", { class: "fold" }, element("summary", {}, `… ${label.join(", ")}`));
  fold.addEventListener("toggle", () => fold.append(...render(middle)), { once: true });
  return [...render(parts.slice(0, head)), fold, ...render(parts.slice(parts.length - tail))];
}

function rendered({ unit, from, to }, passage, { rank, count }) {
  const slice = passage.file.slice;
  if (!unit) return [slice(from, to)];
  const isStructure = unit.kept && unit.reason === "structure";
  const kind = isStructure ? "structure" : unit.kept ? "kept" : "dropped";
  const mark = element(unit.kept ? "mark" : "span", { id: unit.id, class: `unit ${kind}`, tabindex: "-1" });
  if (kind === "kept" && rank(unit)) mark.style.setProperty("--weight", (1 - (rank(unit) - 1) / count).toFixed(3));
  let at = unit.start;
  for (const [start, end] of unit.reason === "cut" ? passage.spans : []) {
    if (end <= at || start >= unit.end) continue;
    if (start > at) mark.append(element("span", { class: "dropped" }, slice(at, start)));
    mark.append(slice(Math.max(start, at), Math.min(end, unit.end)));
    at = Math.min(end, unit.end);
  }
  if (at < unit.end) mark.append(unit.reason === "cut" && at > unit.start ? element("span", { class: "dropped" }, slice(at, unit.end)) : slice(at, unit.end));
  return [slice(from, unit.start), mark];
}

export function jumpTo(id) {
  const unit = document.getElementById(id);
  for (let parent = unit?.parentElement; parent; parent = parent.parentElement) {
    if (parent.tagName === "DETAILS") parent.open = true;
  }
  unit?.scrollIntoView({ block: "center" });
  unit?.focus({ preventScroll: true });
}
