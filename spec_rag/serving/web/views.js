// Files, evidence of an answer, numbers, the map of the files, earlier questions.

import { button, bytes, element, number, percent, seconds } from "./elements.js";
import { jumpTo, pageOf } from "./sources.js";
import { ENCODINGS, decoded } from "./text.js";

export function showFiles(list, files, { onRemove, onEncoding }) {
  list.replaceChildren(
    ...files.map((file) => {
      const state = file.error || (file.document ? `${number(file.document.tokens)} tokens` : "reading …");
      const item = element(
        "li",
        {},
        element("span", { class: "name" }, file.name),
        element("span", { class: "state" }, state),
        button("✕", () => onRemove(file), { "aria-label": `Remove ${file.name}` }),
      );
      if (file.encoding) item.append(...encodingChoice(file, onEncoding));
      if (file.error) {
        item.className = "wrong";
        item.setAttribute("role", "alert");
      }
      return item;
    }),
  );
}

// Of a text that is not UTF-8: the encoding in which it was read, and its first special characters to judge by.
function encodingChoice(file, onEncoding) {
  const select = element("select", { "aria-label": `Encoding of ${file.name}` });
  select.append(...ENCODINGS.map((name) => element("option", name === file.encoding ? { selected: "" } : {}, name)));
  select.addEventListener("change", () => onEncoding(file, select.value));
  const text = decoded(file.bytes.subarray(0, 2 ** 16), file.encoding);
  const special = Math.max(0, text.search(/[^\0-\x7f]/) - 20);
  const preview = element("span", { class: "preview" }, `… ${text.slice(special, special + 60).replace(/\s+/g, " ")} …`);
  return [element("label", { class: "encoding quiet" }, "Not UTF-8, read as ", select), preview];
}

// The most relevant kept sentence and those that support the answer, each with a jump to its place.
export function showEvidence(list, evidence) {
  list.replaceChildren(
    ...evidence.map(({ unit, file, isSupport, number: label }) => {
      const place = [file.name, pageOf(file, unit.start)].filter(Boolean).join(", ");
      const why = isSupport && label > 1 ? "" : label === 1 ? "most relevant to the question" : "relevant to the question";
      const note = [place, isSupport ? "shares its words with the answer" : "", why].filter(Boolean).join(" · ");
      // the heading or the head of the table that the sentence needs
      const needed = unit.passage.units.filter((other) => other.reason === "structure" && other.end <= unit.start && /\p{L}/u.test(other.text));
      const quote = element("q", {}, unit.text.replace(/\s+/g, " ").trim());
      const row = button("", () => jumpTo(unit.id), { title: "Show it in the text" });
      row.append(element("b", {}, `[${label}] `), ...needed.slice(-2).map(({ text }) => element("small", {}, text.trim())), quote, element("small", {}, note));
      return element("li", {}, row);
    }),
  );
}

export function showAnswer(paragraph, sentences) {
  paragraph.replaceChildren(
    ...sentences.flatMap(({ text, citation }) => {
      if (!citation) return [text];
      const bare = text.trimEnd();
      const mark = button(String(citation.number), () => jumpTo(citation.unit.id), { class: "cite", "aria-label": `Source ${citation.number}` });
      return [bare, mark, text.slice(bare.length)];
    }),
  );
}

export function showNumbers(place, { fileTokens, fileCount, compression, answer, kvBytesPerToken }) {
  const { tokens_before: read, tokens_after: kept, documents, draft_seconds: draftSeconds } = compression;
  const rows = [
    ["In your files", number(fileTokens), `tokens, ${fileCount} ${fileCount === 1 ? "file" : "files"}`],
    ["Retrieved", number(read), `tokens, ${documents.length} passages`],
    ["Kept", number(kept), `tokens: ${percent(kept / read)} of the retrieved, ${percent(kept / fileTokens)} of the files`],
  ];
  if (draftSeconds) rows.push(["Read by the draft in", seconds(draftSeconds), ""]);
  if (answer.kvBytes) rows.push(["KV cache", bytes(answer.kvBytes), kvBytesPerToken ? `instead of ${bytes(kvBytesPerToken * fileTokens)}` : ""]);
  place.replaceChildren(
    ...rows.map(([name, value, more]) => element("div", {}, element("dt", {}, name), element("dd", {}, element("b", {}, value), ` ${more}`))),
  );
}

// One strip per file from its first to its last character: where it was looked at, and where text was kept.
export function showMap(place, files, passages, evidence) {
  const strips = files.filter((file) => passages.some((passage) => passage.file === file));
  const longest = Math.max(...strips.map((file) => file.length), 1);
  const legend = element("p", { class: "quiet legend" });
  for (const [kind, label] of [["", "not looked at"], ["read", "looked at"], ["found", "kept"]]) legend.append(element("i", { class: kind }), label);
  place.replaceChildren(
    element("h3", {}, "Where in the files"),
    legend,
    ...strips.map((file) => {
      const strip = element("div", { role: "img" });
      strip.style.width = `${Math.max(12, (100 * file.length) / longest)}%`;
      const add = (node, start, end) => {
        node.style.left = `${(100 * start) / file.length}%`;
        if (end) node.style.width = `${(100 * (end - start)) / file.length}%`;
        strip.append(node);
      };
      const own = passages.filter((passage) => passage.file === file);
      for (const passage of own) add(element("i", { class: "read" }), passage.start, passage.end);
      const kept = own.flatMap(({ units }) => units.filter((unit) => unit.kept && unit.reason !== "structure"));
      for (const unit of kept) add(element("i", { class: "found", title: unit.text.slice(0, 100), onclick: () => jumpTo(unit.id) }), unit.start, unit.end);
      for (const one of evidence.filter((one) => one.file === file)) {
        add(element("b", { onclick: () => jumpTo(one.unit.id) }, String(one.number)), (one.unit.start + one.unit.end) / 2);
      }
      const places = [...new Set(kept.map((unit) => percent(unit.start / file.length)))].join(", ");
      strip.setAttribute("aria-label", kept.length ? `Text was kept at ${places} of ${file.name}` : `Nothing was kept of ${file.name}`);
      return element("div", { class: "strip" }, element("span", { title: file.name }, file.name), strip);
    }),
  );
}

export function showHistory(list, entries, current, onShow) {
  list.replaceChildren(
    ...entries.map((entry) => {
      const row = button(entry.question, () => onShow(entry), entry === current ? { "aria-current": "true" } : {});
      row.append(element("small", {}, entry.answer.text.slice(0, 90)));
      return element("li", {}, row);
    }),
  );
}
