// The page: files and a question in, an answer and the sentences it comes from out.

import { Refused, apiKey, compress, events, getJson, readFile } from "./api.js";
import { button, bytes, element, number, percent, seconds } from "./elements.js";
import { jumpTo, passagesOf, showSources } from "./sources.js";
import * as store from "./store.js";
import { SupportFinder, guessedEncoding, joinedLines, repetitionStart, sentences, slicer, wholeSentences } from "./text.js";
import { showAnswer, showEvidence, showFiles, showHistory, showMap, showNumbers } from "./views.js";

const CHUNKS = 12; // that the draft looks at
const CHUNK_CHARS = 900;
const ANSWER_TOKENS = 120;
const MAX_HISTORY = 30;
const WHOLE_TOKENS = 100_000; // compared at most where the model's context length is not known
const BINARY = /\.(pdf|docx|epub|ipynb)$/i;

const at = (id) => document.getElementById(id);
const files = []; // also those that were removed, while an earlier question refers to them
let history = []; // questions with their answers, the newest first
let limits = {};
let models = [];
let samples = null;
let current = null; // the question that is shown
let running = null;
let sliderTimer = null;
let sliderRequest = null;

const listed = () => files.filter((file) => file.isListed);
const ready = () => listed().filter((file) => file.document);
const ratioNow = () => at("budget").value / 100;
const model = () => models.find(({ id }) => id === at("model").value);
const sum = (some, value) => some.reduce((total, item) => total + value(item), 0);

function say(message, isWrong = false) {
  at("status").textContent = message;
  at("status").className = isWrong ? "wrong-status" : "";
}

function complain(error) {
  if (error.name === "AbortError") return say("Stopped.");
  if (!(error instanceof Refused)) console.error(error);
  if (error.status === 401) {
    at("key-row").hidden = false;
    at("key").focus();
  }
  return say(error.message, true);
}

// Models and limits

async function connect() {
  try {
    limits = await getJson("settings.json");
    const wanted = new URLSearchParams(location.search).get("model"); // `spec-rag app --model`
    models = (await getJson("/v1/models")).data;
    if (wanted && !models.some(({ id }) => id === wanted)) models.unshift({ id: wanted });
    const chosen = [wanted, localStorage.getItem("spec-rag-model")].find((name) => models.some(({ id }) => id === name));
    at("model").replaceChildren(...models.map(({ id }) => element("option", { value: id }, id.split("/").pop())));
    at("model").value = chosen || models[0].id;
    at("model").disabled = models.length < 2;
    at("kinds").textContent = limits.kinds;
    at("key-row").hidden = true;
    noteModel();
    say("");
  } catch (error) {
    at("model").replaceChildren(element("option", {}, "not connected"));
    complain(error);
  }
}

function noteModel() {
  const millions = Math.round(limits.target_parameters / 1e6);
  const draft = limits.draft.split("/").pop();
  const small = `A demonstration model (${millions} million parameters): it finds short facts, and is often wrong. Trust the quoted sentences. Better answers: spec-rag app --target MODEL`;
  at("model-note").textContent = millions && millions < 1000 ? small : `It writes the answers; ${draft} chooses the sentences it reads.`;
  at("model").title = at("model").value;
  refreshLabels();
}

// Files

function refreshFiles() {
  showFiles(at("list"), listed(), { onRemove: removeFile, onEncoding: reread });
  const hasSamples = samples?.files.some((name) => ready().some((file) => file.name === name));
  at("samples").hidden = listed().length > 0;
  at("sample-questions").hidden = !hasSamples;
  if (hasSamples && !at("sample-questions").children.length) {
    at("sample-questions").replaceChildren(
      ...samples.questions.map((question) =>
        button(question, () => {
          at("question").value = question;
          at("form").requestSubmit();
        }, { class: "plain" }),
      ),
    );
  }
  refreshLabels();
}

function removeFile(file) {
  file.isListed = false;
  if (file.document) save(file);
  refreshFiles();
  at("files").focus();
}

const save = ({ key, name, document, isListed }) => store.put("files", { key, name, document, isListed });

async function addFiles(added) {
  const newKey = (i) => `f${Date.now()}-${String(i).padStart(4, "0")}`; // sorted by age
  const taken = [...added].map((blob, i) => ({ key: newKey(i), name: blob.name, blob, isListed: true }));
  for (const { name } of taken) for (const old of listed().filter((file) => file.name === name)) removeFile(old);
  files.push(...taken);
  refreshFiles();
  for (const file of taken) {
    const { size } = file.blob;
    if (size > limits.max_file_bytes) {
      file.error = `${bytes(size)}: too large, this server takes ${bytes(limits.max_file_bytes)}. Split it, or start the server with a larger --max-body-mib.`;
    } else {
      await read(file);
    }
    refreshFiles();
  }
}

async function read(file, encoding) {
  try {
    file.error = null;
    file.document = null;
    file.document = await readFile(file.blob, encoding);
    prepare(file);
    await save(file);
  } catch (error) {
    if (error.code === "unreadable_file" && !encoding && !BINARY.test(file.name)) {
      file.bytes = new Uint8Array(await file.blob.arrayBuffer());
      file.encoding = guessedEncoding(file.bytes);
      if (file.encoding) return read(file, file.encoding);
    }
    file.error = error.message;
    if (error.status === 401) complain(error);
  }
  return undefined;
}

async function reread(file, encoding) {
  file.encoding = encoding;
  await read(file, encoding);
  refreshFiles();
}

function prepare(file) {
  const text = joinedLines(file.name, file.document.text);
  file.slice = slicer(text);
  file.length = [...text].length;
}

async function addSamples() {
  const blobs = samples.files.map(async (name) => new File([await (await fetch(`samples/${name}`)).blob()], name));
  await addFiles(await Promise.all(blobs));
  at("question").focus();
}

// Budget

const tokensOf = (some) => sum(some, (file) => file.document.tokens);

function wholeFits(some) {
  const known = model()?.max_model_len || model()?.context_length || limits.context_tokens;
  return some.length <= limits.max_documents && tokensOf(some) <= (known ? known - 2 * ANSWER_TOKENS : WHOLE_TOKENS);
}

function refreshLabels() {
  at("share").textContent = `${at("budget").value} %`;
  at("compare-label").textContent = comparisonOf(ready()).label;
}

function comparisonOf(some) {
  if (wholeFits(some)) return { isWhole: true, label: "Compare with the whole texts", title: "From the whole texts" };
  return { isWhole: false, label: `Compare with all ${CHUNKS} passages (the whole texts do not fit)`, title: `From all ${CHUNKS} passages, whole` };
}

// everything that is looked at is read, whatever the budget: another budget then needs no reading
const compressionOptions = (query, ratio) => ({ query, ratio, with_units: true, cascade: "never", top_k: CHUNKS, chunk_chars: CHUNK_CHARS });

// Questions

async function ask(event) {
  event.preventDefault();
  const question = at("question").value.trim();
  const some = ready();
  if (!some.length) return say(listed().some((file) => !file.error) ? "The files are still being read." : "Add a file first.", true);
  if (!question) {
    at("question").focus();
    return say("Write a question first.", true);
  }
  if (some.length > limits.max_documents) return say(`${some.length} files: this server takes ${limits.max_documents} at a time.`, true);
  if (!model()) await connect();
  if (!model()) return undefined;
  const entry = { key: `q${Date.now()}`, question, model: model().id, ratio: ratioNow(), files: some.map(({ key }) => key), answer: { text: "" } };
  return run(async (signal) => {
    say("Reading the documents …");
    current = entry;
    at("answers").hidden = true;
    const compression = await compress(some, compressionOptions(question, entry.ratio), signal, showProgress);
    at("progress").hidden = true;
    entry.messages = compression.messages;
    showCompression(entry, compression);
    at("answers").scrollIntoView({ block: innerWidth < 832 ? "start" : "nearest" });
    say("Answering …");
    window.history.pushState(null, "", `#${entry.key}`);
    await finished(entry, answer("kept-answer", entry, entry.model, ANSWER_TOKENS, signal));
    if (at("compare").checked) await compare(entry, some, signal);
    return say(entry.shown === entry.ratio ? "Done." : budgetNote(entry));
  });
}

async function compare(entry, some, signal) {
  const { isWhole, title } = comparisonOf(some);
  say(`Answering ${title.toLowerCase()} …`);
  const options = isWhole ? { query: entry.question, ratio: 1 } : compressionOptions(entry.question, 1);
  const whole = await compress(some, { ...options, with_units: false }, signal);
  entry.comparison = { title, tokens: whole.tokens_after, messages: whole.messages };
  showComparison(entry);
  await finished(entry, answer("compared-answer", entry.comparison, entry.model, ANSWER_TOKENS, signal));
}

// One question at a time: a new one stops the one before.
async function run(action) {
  running?.abort();
  sliderRequest?.abort();
  const own = new AbortController();
  running = own;
  at("stop").hidden = false;
  at("ask").disabled = true;
  try {
    await action(own.signal);
  } catch (error) {
    if (running === own) complain(error);
  } finally {
    if (running === own) {
      running = null;
      at("progress").hidden = true;
      at("stop").hidden = true;
      at("ask").disabled = false;
    }
  }
}

function showProgress({ what, done, total }) {
  at("progress").hidden = false;
  at("progress").value = total ? done / total : 1;
  say(total ? `${what}: ${done} of ${total}` : what);
}

// Writes into part.answer. A longer answer to the same request replaces the one before as soon as it goes beyond it.
async function answer(paneName, part, model, maxTokens, signal) {
  const paragraph = at(paneName).querySelector(".answer");
  const shownBefore = part.answer?.text || "";
  const result = { text: "", maxTokens, finish: "stopped" };
  const started = performance.now();
  const body = { model, messages: part.messages, max_tokens: maxTokens, stream_options: { include_usage: true } };
  for await (const event of events("/v1/chat/completions", body, signal)) {
    result.text += event.choices?.[0]?.delta?.content || "";
    result.finish = event.choices?.[0]?.finish_reason || result.finish;
    if (event.usage) Object.assign(result, { tokens: event.usage.prompt_tokens, kvBytes: event.spec_rag?.kv_bytes_kept });
    const repeated = repetitionStart(result.text);
    if (repeated > 0) Object.assign(result, { text: wholeSentences(result.text.slice(0, repeated)), finish: "repetition" });
    if (result.text.length > shownBefore.length) {
      part.answer = result;
      if (part === current || part === current.comparison) paragraph.textContent = result.text;
    }
    if (repeated > 0) break;
  }
  result.seconds = (performance.now() - started) / 1000;
  part.answer = result;
}

// The same request with room for more tokens: what was written comes again, and goes on.
function continueAnswer(paneName) {
  const entry = current;
  const part = paneName === "kept-answer" ? entry : entry.comparison;
  return run(async (signal) => {
    say("Answering …");
    await finished(entry, answer(paneName, part, entry.model, Math.min(2 * part.answer.maxTokens, limits.max_answer_tokens), signal));
    say("Done.");
  });
}

// Shows and stores a question once its answer is complete, or was stopped.
async function finished(entry, answering) {
  try {
    await answering;
  } finally {
    if (entry === current) showEntry(entry);
    await remember(entry);
  }
}

async function remember(entry) {
  history = [entry, ...history.filter((other) => other !== entry)].sort((a, b) => (a.key < b.key ? 1 : -1));
  await store.put("questions", entry);
  for (const old of history.splice(MAX_HISTORY)) await store.remove("questions", old.key);
  refreshHistory();
}

function refreshHistory() {
  at("history-section").hidden = !history.length;
  showHistory(at("history"), history, current, (entry) => {
    window.history.pushState(null, "", `#${entry.key}`);
    showAddressed();
  });
}

// What is shown

function showCompression(entry, compression) {
  entry.compression = compression;
  entry.shown = entry.ratio;
  for (const heavy of ["text", "messages"]) delete compression[heavy];
  showEntry(entry);
}

function showEntry(entry) {
  const some = entry.files.map((key) => files.find((file) => file.key === key));
  const passages = passagesOf(entry.compression, some);
  const evidence = showAnswerOf(entry, passages);
  for (const id of ["answers", "numbers-section", "sources-section"]) at(id).hidden = false;
  at("welcome").hidden = true;
  const kvBytesPerToken = models.find(({ id }) => id === entry.model)?.spec_rag?.kv_bytes_per_token;
  const fileTokens = tokensOf(some);
  showNumbers(at("numbers"), { fileTokens, fileCount: some.length, kvBytesPerToken, ...entry });
  showMap(at("map"), some, passages, evidence);
  showSources(at("sources"), passages);
  showComparison(entry);
}

// The evidence: first the most important kept sentence, then those that support a sentence of the answer.
function showAnswerOf(entry, passages) {
  const units = passages.flatMap((passage) => passage.units.map((unit) => ({ ...unit, file: passage.file, passage })));
  const evidence = [];
  const cite = (unit, isSupport) => {
    let found = evidence.find((other) => other.unit.id === unit.id);
    if (!found) evidence.push((found = { unit, file: unit.file, number: evidence.length + 1 }));
    found.isSupport ||= isSupport;
    return found;
  };
  const isProse = ({ kept, reason, text }) => kept && reason !== "structure" && !/^\s*#/.test(text) && /\p{L}+\W+\p{L}+\W+\p{L}/u.test(text);
  const candidates = units.filter(isProse).sort((a, b) => (b.importance ?? 0) - (a.importance ?? 0));
  if (candidates.length) cite(candidates[0], false);
  const finder = new SupportFinder(entry.question, units);
  const cited = sentences(entry.answer.text).map((text) => {
    const unit = finder.find(text);
    return { text, citation: unit && evidence.length < 6 ? cite(unit, true) : null };
  });
  const isSupported = cited.some(({ citation }) => citation);
  const isUnsupported = Boolean(entry.answer.finish) && entry.answer.text.trim() && !isSupported;
  if (isUnsupported) candidates.slice(1, 3).forEach((unit) => cite(unit, false));
  const pane = at("kept-answer");
  showAnswer(pane.querySelector(".answer"), cited);
  showCost(pane, entry.answer);
  at("unsupported").hidden = !isUnsupported;
  showEvidence(at("evidence"), evidence);
  return evidence;
}

function showComparison({ comparison }) {
  const pane = at("compared-answer");
  pane.hidden = !comparison;
  if (!comparison) return;
  pane.querySelector("h2").textContent = comparison.title;
  pane.querySelector(".answer").textContent = comparison.answer?.text || "";
  showCost(pane, comparison.answer || {});
}

function showCost(pane, { finish, tokens, seconds: taken, maxTokens }) {
  const notes = {
    length: `The answer was cut after ${number(maxTokens)} tokens.`,
    repetition: "The model began to repeat itself and was stopped.",
    stopped: "The answer was stopped.",
  };
  pane.querySelector(".cut").hidden = !notes[finish];
  pane.querySelector(".cut span").textContent = notes[finish] || "";
  pane.querySelector(".cut button").hidden = finish === "repetition" || maxTokens >= limits.max_answer_tokens;
  pane.querySelector(".cost").textContent = tokens ? `${number(tokens)} tokens read, ${seconds(taken)}` : "";
}

const budgetNote = ({ shown, ratio }) => `The sources are at ${percent(shown)}, the answer is from ${percent(ratio)}: ask again for a new one.`;

function moveSlider() {
  refreshLabels();
  if (!current?.compression) return;
  clearTimeout(sliderTimer);
  sliderTimer = setTimeout(async () => {
    const entry = current;
    const ratio = ratioNow();
    sliderRequest?.abort();
    sliderRequest = new AbortController();
    const { signal } = sliderRequest;
    try {
      const some = entry.files.map((key) => files.find((file) => file.key === key));
      const compression = await compress(some, compressionOptions(entry.question, ratio), signal);
      if (entry !== current || signal.aborted) return;
      showCompression(entry, compression);
      entry.shown = ratio;
      if (!running) say(ratio === entry.ratio ? "Done." : budgetNote(entry));
    } catch (error) {
      if (error.name !== "AbortError") complain(error);
    }
  }, 80);
}

async function copy({ currentTarget }) {
  const pane = currentTarget.closest("article");
  const quotes = [...at("evidence").children].map((item) => item.innerText.replace(/\n/g, "\n    "));
  const text = [pane.querySelector(".answer").innerText, ...quotes].join("\n\n");
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // without HTTPS browsers have no clipboard for pages
    const area = element("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  say("Copied, with the sentences it comes from.");
}

// Address: #q... is an earlier question, so that reload, back and forward show it again

function showAddressed() {
  const entry = history.find(({ key }) => `#${key}` === location.hash);
  running?.abort();
  current = entry || null;
  for (const id of ["answers", "numbers-section", "sources-section"]) at(id).hidden = !entry;
  at("welcome").hidden = Boolean(entry) || history.length > 0;
  if (entry) {
    at("question").value = entry.question;
    at("budget").value = 100 * entry.shown;
    refreshLabels();
    showEntry(entry);
  }
  refreshHistory();
}

async function restore() {
  history = (await store.all("questions")).sort((a, b) => (a.key < b.key ? 1 : -1));
  const used = new Set(history.flatMap((entry) => entry.files));
  for (const file of await store.all("files")) {
    if (!file.isListed && !used.has(file.key)) {
      await store.remove("files", file.key);
      continue;
    }
    prepare(file);
    files.push(file);
  }
  history = history.filter((entry) => entry.files.every((key) => files.some((file) => file.key === key)));
  refreshFiles();
  showAddressed();
}

async function clearHistory() {
  for (const { key } of history) await store.remove("questions", key);
  history = [];
  window.history.replaceState(null, "", location.pathname + location.search);
  showAddressed();
  at("question").focus();
}

function dropAnywhere() {
  const show = (isOver) => (at("dropping").hidden = !isOver);
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    show(true);
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || show(false));
  document.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    show(false);
    addFiles(event.dataTransfer.files);
  });
}

at("files").addEventListener("change", async ({ target }) => {
  const added = [...target.files];
  target.value = "";
  await addFiles(added);
});
at("samples").addEventListener("click", () => addSamples().catch(complain));
at("form").addEventListener("submit", ask);
at("stop").addEventListener("click", () => running?.abort());
at("budget").addEventListener("input", moveSlider);
at("clear").addEventListener("click", clearHistory);
at("model").addEventListener("change", ({ target }) => {
  localStorage.setItem("spec-rag-model", target.value);
  noteModel();
});
at("key").addEventListener("change", ({ target }) => {
  apiKey.set(target.value.trim());
  connect();
});
at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("form").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => event.key === "Escape" && running?.abort());
for (const pane of document.querySelectorAll("#answers article")) {
  pane.querySelector(".copy").addEventListener("click", copy);
  pane.querySelector(".cut button").addEventListener("click", () => continueAnswer(pane.id));
}
window.addEventListener("popstate", showAddressed);
dropAnywhere();
samples = await (await fetch("samples/samples.json")).json();
await Promise.all([connect(), restore()]);
