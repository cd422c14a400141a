// The server's API: JSON in, JSON or a stream of events out.

export class Refused extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const apiKey = {
  get: () => sessionStorage.getItem("spec-rag-key") || "",
  set: (value) => sessionStorage.setItem("spec-rag-key", value),
};

async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (apiKey.get()) headers.Authorization = `Bearer ${apiKey.get()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server does not answer. Is it still running?");
  }
  if (response.ok) return response;
  const { error = {} } = await response.json().catch(() => ({}));
  throw new Refused(response.status, error.message || `The server answers with status ${response.status}.`, error.code);
}

const jsonBody = (body, signal) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
  signal,
});

export const getJson = async (path) => (await request(path)).json();

// As a stream: that a file cannot be read is an event, not a failed request.
export async function readFile(file, encoding) {
  const form = new FormData();
  form.append("file", file, file.name);
  form.append("stream", "true");
  if (encoding) form.append("encoding", encoding);
  let document = null;
  for await (const event of stream("/v1/read", { method: "POST", body: form })) {
    if (event.object === "document") document = event;
  }
  return document;
}

// The texts are on the server since they were read; they are sent again only if it has lost them.
export async function compress(files, options, signal, onProgress) {
  const body = () => ({
    ...options,
    documents: files.map((file) => ({ file: file.document.id, title: file.document.title, id: file.name })),
  });
  const run = async () => {
    if (!onProgress) return (await request("/v1/compress", jsonBody(body(), signal))).json();
    let compression = null;
    for await (const event of events("/v1/compress", body(), signal)) {
      if (event.object === "progress") onProgress(event);
      else compression = event;
    }
    return compression;
  };
  try {
    return await run();
  } catch (error) {
    if (error.code !== "file_not_found") throw error;
    for (const file of files) {
      file.document.id = (await readFile(new File([file.document.text], `${file.name}.txt`), "utf-8")).id;
    }
    return run();
  }
}

export const events = (path, body, signal) => stream(path, jsonBody({ ...body, stream: true }, signal));

async function* stream(path, options) {
  const response = await request(path, options);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let done = false;
  try {
    for (;;) {
      const part = await reader.read();
      if (part.done) break;
      rest += part.value;
      const lines = rest.split(/\r?\n\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        const data = line.replace(/^data: ?/, "");
        if (data === "[DONE]") done = true;
        if (data === "[DONE]" || line.startsWith(":")) continue;
        const event = JSON.parse(data);
        if (event.error) throw new Refused(200, event.error.message, event.error.code);
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
  if (!done) throw new Refused(200, "The answer broke off.");
}
