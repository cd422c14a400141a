// The page: files and a question in, a streamed answer and its sources out.

import { Refused, compress, events, key, models, readFile } from "./api.js";
import { bytes, number, seconds, showFiles, showNumbers, showSession, showSources } from "./views.js";

const CHUNKS = 12; // of files that are longer than that, only the best are looked at
const CHUNK_CHARS = 900;
const ANSWER_TOKENS = 120;

const at = (id) => document.getElementById(id);
const files = [];
const asked = [];
let model = null;
let current = null; // the question whose sources are shown
let running = null;
let adjusting = null; // the timer of the slider
let adjustment = null; // the request of its last move

function say(message, wrong = false) {
  at("status").textContent = message;
  at("status").className = wrong ? "wrong-status" : "";
}

function complain(error) {
  if (error.name === "AbortError") return say("Stopped.");
  if (error instanceof Refused && error.status === 401) {
    at("key-row").hidden = false;
    at("key").focus();
  }
  return say(error.message, true);
}

async function connect() {
  try {
    const wanted = new URLSearchParams(location.search).get("model"); // `spec-rag app --model`
    const known = await models();
    model = wanted ? known.find((one) => one.id === wanted) || { id: wanted } : known[0];
    at("models").textContent = model.id;
    say("");
  } catch (error) {
    at("models").textContent = "Not connected";
    complain(error);
  }
}

function refreshFiles() {
  showFiles(at("list"), files, (file) => {
    files.splice(files.indexOf(file), 1);
    current = null;
    refreshFiles();
    at("files").focus();
  });
}

async function add(given) {
  const added = [...given].map((file) => ({ name: file.name, file }));
  files.push(...added);
  current = null;
  refreshFiles();
  for (const one of added) {
    try {
      one.document = await readFile(one.file);
    } catch (error) {
      one.error = error.message;
      if (error.status === 401) complain(error);
    }
    delete one.file;
    refreshFiles();
  }
}

function request(question, ratio, readable) {
  const length = readable.reduce((sum, file) => sum + file.document.text.length, 0);
  const parts = length > CHUNKS * CHUNK_CHARS ? { top_k: CHUNKS, chunk_chars: CHUNK_CHARS } : {};
  const documents = readable.map((file) => ({ text: file.document.text, title: file.document.title, id: file.name }));
  // everything that is looked at is read, whatever the budget: another budget then needs no reading
  return { documents, query: question, ratio, with_units: true, cascade: "never", ...parts };
}

async function answer(pane, messages, signal, started) {
  const text = pane.querySelector(".answer");
  const cost = pane.querySelector(".cost");
  text.textContent = "";
  cost.textContent = "";
  const body = { model: model.id, messages, max_tokens: ANSWER_TOKENS, stream_options: { include_usage: true } };
  const told = {};
  for await (const event of events("/v1/chat/completions", body, signal)) {
    text.textContent += event.choices?.[0]?.delta?.content || "";
    if (event.usage) Object.assign(told, event.usage, event.spec_rag);
  }
  told.seconds = (performance.now() - started) / 1000;
  const kv = model.spec_rag?.kv_bytes_per_token;
  told.kv_bytes = told.kv_bytes_kept || (kv && told.target_prompt_tokens ? kv * told.target_prompt_tokens : null);
  const memory = told.kv_bytes ? `, KV ${bytes(told.kv_bytes)}` : "";
  cost.textContent = `${number(told.prompt_tokens || 0)} tokens read, ${seconds(told.seconds)}${memory}`;
  return told;
}

function showCompression(shown, compression, told) {
  at("sources-hint").hidden = true;
  at("numbers-section").hidden = false;
  showSources(at("sources"), shown.files, compression);
  const rows = [
    ["Tokens given", number(compression.tokens_before)],
    ["Tokens kept", number(compression.tokens_after)],
    ["Ratio", `${Math.round(100 * compression.ratio)} %`],
    ["Reading", seconds(compression.draft_seconds)],
  ];
  if (told) rows.push(["In all", seconds(told.seconds)], ["KV cache", told.kv_bytes ? bytes(told.kv_bytes) : "–"]);
  showNumbers(at("numbers"), rows);
}

async function read(body, signal) {
  let compression = null;
  const bar = at("progress");
  for await (const event of events("/v1/compress", body, signal)) {
    if (event.object === "progress") {
      bar.hidden = false;
      bar.value = event.total ? event.done / event.total : 1;
      say(event.total ? `${event.what}: ${event.done} of ${event.total}` : event.what);
    } else {
      compression = event;
    }
  }
  bar.hidden = true;
  return compression;
}

async function ask(event) {
  event.preventDefault();
  const question = at("question").value.trim();
  const readable = files.filter((file) => file.document);
  if (!readable.length) return say(files.some((file) => file.file) ? "The files are still being read." : "Add a file first.", true);
  if (!question) {
    at("question").focus();
    return say("Write a question first.", true);
  }
  if (!model) await connect();
  if (!model) return undefined;
  running?.abort();
  adjustment?.abort();
  const own = new AbortController(); // another question may come before this one is done
  const { signal } = own;
  running = own;
  at("stop").hidden = false;
  at("ask").disabled = true;
  const ratio = at("budget").value / 100;
  const comparing = at("compare").checked;
  const shown = { question, files: readable, ratio, shown: ratio };
  try {
    say("Reading the documents …");
    const started = performance.now();
    current = shown;
    const compression = await read(request(question, ratio, readable), signal);
    if (shown.shown === ratio) showCompression(shown, compression, null);
    at("answers").hidden = false;
    at("whole-answer").hidden = !comparing;
    say("Answering …");
    const told = await answer(at("kept-answer"), compression.messages, signal, started);
    if (shown.shown === ratio) showCompression(shown, compression, told);
    asked.push({ question, before: compression.tokens_before, after: compression.tokens_after, seconds: told.seconds });
    at("chart-section").hidden = false;
    showSession(at("chart"), at("history").tBodies[0], asked);
    if (comparing) {
      say("Answering from the whole texts …");
      const again = performance.now();
      const whole = await compress(request(question, 1, readable), signal);
      await answer(at("whole-answer"), whole.messages, signal, again);
    }
    at("stop").hidden = true;
    noteBudget(shown);
  } catch (error) {
    if (running === own) complain(error);
  } finally {
    if (running === own) {
      at("progress").hidden = true;
      at("stop").hidden = true;
      at("ask").disabled = false;
    }
  }
  return undefined;
}

function noteBudget({ ratio, shown }) {
  if (!at("stop").hidden) return; // what runs says how it ends
  const percent = (share) => `${Math.round(100 * share)} %`;
  if (shown !== ratio) say(`The sources are at ${percent(shown)}, the answer is from ${percent(ratio)}: ask again for a new one.`);
  else say("Done.");
}

function adjust() {
  at("share").textContent = `${at("budget").value} %`;
  if (!current) return;
  clearTimeout(adjusting);
  adjusting = setTimeout(async () => {
    const shown = current;
    const ratio = at("budget").value / 100;
    adjustment?.abort();
    adjustment = new AbortController();
    const { signal } = adjustment;
    try {
      const compression = await compress(request(shown.question, ratio, shown.files), signal);
      if (shown !== current || signal.aborted) return;
      current.shown = ratio;
      showCompression(shown, compression, null);
      noteBudget(shown);
    } catch (error) {
      if (error.name !== "AbortError") complain(error);
    }
  }, 80);
}

at("files").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = "";
});
for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  at("drop").addEventListener(name, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", over);
    if (name === "drop") add(event.dataTransfer.files);
  });
}
at("form").addEventListener("submit", ask);
at("stop").addEventListener("click", () => running?.abort());
at("budget").addEventListener("input", adjust);
at("key").addEventListener("change", (event) => {
  key.set(event.target.value.trim());
  connect();
});
at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("form").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
connect();
