// Files and questions of this browser, in IndexedDB; in memory alone where the browser forbids it.

const memory = { files: new Map(), questions: new Map() };

const database = new Promise((resolve) => {
  try {
    const opening = indexedDB.open("spec-rag", 1);
    opening.onupgradeneeded = () => {
      for (const name of Object.keys(memory)) opening.result.createObjectStore(name, { keyPath: "key" });
    };
    opening.onsuccess = () => resolve(opening.result);
    opening.onerror = () => resolve(null);
  } catch {
    resolve(null);
  }
});

async function transact(name, mode, action) {
  const opened = await database;
  if (!opened) return null;
  return new Promise((resolve) => {
    const operation = action(opened.transaction(name, mode).objectStore(name));
    operation.onsuccess = () => resolve(operation.result);
    operation.onerror = () => resolve(null);
  });
}

export const all = async (name) => (await transact(name, "readonly", (store) => store.getAll())) || [...memory[name].values()];

export async function put(name, value) {
  memory[name].set(value.key, value);
  await transact(name, "readwrite", (store) => store.put(value));
}

export async function remove(name, key) {
  memory[name].delete(key);
  await transact(name, "readwrite", (store) => store.delete(key));
}
