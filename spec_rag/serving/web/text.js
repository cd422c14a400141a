// Texts: line breaks of PDFs, encodings, repetition, and which kept sentence supports an answer.

// Line breaks inside of a sentence become spaces, so every character keeps its place.
export function joinedLines(name, text) {
  if (!/\.pdf$/i.test(name)) return text;
  return text.replace(/([^\n]{40,}[^\n.:;!?])\n(?=\p{Ll})/gu, "$1 ");
}

// Ranges of the server count characters; JavaScript counts UTF-16 code units.
export function slicer(text) {
  const characters = [...text];
  if (characters.length === text.length) return text.slice.bind(text);
  return (start, end) => characters.slice(start, end).join("");
}

export const ENCODINGS = [
  ...["windows-1252", "windows-1250", "windows-1251", "windows-1253", "windows-1254", "koi8-r", "macintosh"],
  ...["shift_jis", "euc-jp", "gb18030", "big5", "euc-kr", "utf-16le", "utf-16be"],
];

export const decoded = (bytes, encoding) => new TextDecoder(encoding).decode(bytes);

// The encoding of a text that is not UTF-8, or null where the bytes are no text.
export function guessedEncoding(bytes) {
  bytes = bytes.subarray(0, 2 ** 16 - (2 ** 16 % 2));
  const zeros = [0, 0];
  bytes.forEach((byte, i) => byte || zeros[i % 2]++);
  if (zeros[0] + zeros[1]) {
    const share = (zeros[0] + zeros[1]) / bytes.length;
    if (share < 0.2 || Math.min(...zeros) > 0.1 * Math.max(...zeros)) return null;
    return zeros[1] > zeros[0] ? "utf-16le" : "utf-16be";
  }
  const share = (text, pattern) => (text.match(pattern) || []).join("").length / ((text.match(/[^\0-\x7f]/g) || []).length || 1);
  // letters with accents rarely follow one another
  if (share(decoded(bytes, "windows-1252"), /[^\0-\x7f]{3,}/g) < 0.5) return "windows-1252";
  for (const [encoding, script, least] of [
    ["shift_jis", /[ぁ-ヿ]/g, 0.2], ["euc-jp", /[ぁ-ヿ]/g, 0.2], ["euc-kr", /[가-힣]/g, 0.8], ["windows-1251", /[Ѐ-ӿ]/g, 0.9],
  ]) {
    const text = decoded(bytes, encoding);
    if (share(text, script) >= least && share(text, /\ufffd/g) < 0.01) {
      // in Russian, small letters follow one another; Chinese read as Russian mixes them
      if (encoding !== "windows-1251" || share(text, /[а-яё]/g) > 0.7) return encoding;
    }
  }
  return share(decoded(bytes, "gb18030"), /\ufffd/g) < 0.01 ? "gb18030" : "windows-1252";
}

// The start of the second of at least three equal pieces at the end of a text, or -1.
export function repetitionStart(text) {
  const tail = text.slice(-900);
  const found = /([\s\S]{12,300}?)\1\1$/.exec(tail);
  return found ? text.length - tail.length + found.index + found[1].length : -1;
}

// Without an unfinished last sentence.
export const wholeSentences = (text) => (/^[\s\S]*[.!?。！？](?=\s|$)/.exec(text) || [text])[0];

const segments = (text, granularity) => [...new Intl.Segmenter(undefined, { granularity }).segment(text)];

export const sentences = (text) => segments(text, "sentence").map(({ segment }) => segment);

function words(text) {
  const found = segments(text.normalize("NFKC").toLowerCase(), "word").filter(({ isWordLike }) => isWordLike);
  return new Set(found.map(({ segment }) => segment.replace(/['’]s$/, "").replace(/(?<=\p{L}{3})(es|s)$/u, "")));
}

// Finds the kept unit that shares the rarest words with a sentence. `units` have `text`, `kept` and `importance`.
export class SupportFinder {
  constructor(question, units) {
    this.questionWords = words(question);
    this.units = units.map((unit) => ({ unit, words: words(unit.text) }));
    this.frequency = new Map();
    for (const { words: own } of this.units) {
      for (const word of own) this.frequency.set(word, (this.frequency.get(word) || 0) + 1);
    }
  }

  weight(word) {
    return Math.log((this.units.length + 1) / (this.frequency.get(word) || 1));
  }

  // null where no kept unit has at least half of the sentence's telling words that are not in the question
  find(sentence) {
    const isNew = (word) => !this.questionWords.has(word);
    const telling = [...words(sentence)].filter((word) => this.weight(word) > 1);
    const weigh = (some) => some.reduce((sum, word) => sum + this.weight(word), 0);
    const needed = weigh(telling.filter(isNew)) / 2;
    let best = null;
    for (const { unit, words: own } of this.units) {
      if (!unit.kept || unit.reason === "structure") continue;
      const shared = telling.filter((word) => own.has(word));
      const said = weigh(shared.filter(isNew));
      const worth = said + 0.3 * weigh(shared.filter((word) => !isNew(word)));
      if (!said || said < needed) continue;
      if (!best || worth > best.worth || (worth === best.worth && unit.importance > best.unit.importance)) best = { unit, worth };
    }
    return best?.unit || null;
  }
}
