// The server's API, as the page uses it: JSON in, JSON or a stream of events out.

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const key = {
  get: () => sessionStorage.getItem("spec-rag-key") || "",
  set: (value) => sessionStorage.setItem("spec-rag-key", value),
};

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server does not answer. Is it still running?");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new Refused(response.status, body.error?.message || `The server answers with status ${response.status}.`);
}

const json = (body, signal) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
  signal,
});

export async function models() {
  return (await (await ask("/v1/models")).json()).data;
}

// As a stream: that a file cannot be read is an answer here, not a failed request.
export async function readFile(file) {
  const form = new FormData();
  form.append("file", file, file.name);
  form.append("stream", "true");
  let document = null;
  for await (const event of told("/v1/read", { method: "POST", body: form })) {
    if (event.object === "document") document = event;
  }
  return document;
}

export async function compress(body, signal) {
  return (await ask("/v1/compress", json(body, signal))).json();
}

export const events = (path, body, signal) => told(path, json({ ...body, stream: true }, signal));

async function* told(path, options) {
  const response = await ask(path, options);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  let done = false;
  try {
    for (;;) {
      const part = await reader.read();
      if (part.done) break;
      held += part.value;
      const whole = held.split("\n\n");
      held = whole.pop();
      for (const one of whole) {
        const data = one.replace(/^data: /, "");
        if (data === "[DONE]") {
          done = true;
          continue;
        }
        const event = JSON.parse(data);
        if (event.error) throw new Refused(200, event.error.message);
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
  if (!done) throw new Refused(200, "The answer broke off.");
}
