// What is shown: files, sources, numbers, the session's chart. Every text goes in as text, never as markup.

export const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
};

export const number = (value) => Math.round(value).toLocaleString("en");
export const seconds = (value) => (value < 10 ? value.toFixed(1) : Math.round(value)) + " s";

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  for (; value >= 1024 && unit < units.length - 1; unit++) value /= 1024;
  return `${value < 10 && unit ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

export function showFiles(list, files, remove) {
  list.replaceChildren(
    ...files.map((file) => {
      const state = file.error || (file.document ? `${number(file.document.tokens)} tokens` : "reading …");
      const button = element("button", { type: "button", "aria-label": `Remove ${file.name}` }, "✕");
      button.addEventListener("click", () => remove(file));
      const item = element("li", {}, element("span", { class: "name" }, file.name));
      item.append(element("span", { class: "state" }, state), button);
      if (file.error) {
        item.className = "wrong";
        item.setAttribute("role", "alert");
      }
      return item;
    }),
  );
}

// One section per file: its pieces in reading order, with a note where a part was not looked at.
export function showSources(place, files, compression) {
  const known = compression.documents.flatMap((one) => one.units || []).map((unit) => unit.importance);
  const finite = known.filter((value) => value !== null).sort((a, b) => a - b);
  const rank = (value) => (value === null || finite.length < 2 ? 0 : finite.findIndex((v) => v >= value) / (finite.length - 1));
  const scrolled = [...place.querySelectorAll(".text")].map((text) => text.scrollTop);
  const sections = files.map((file, index) => {
    const pieces = compression.documents.filter((one) => one.document === index).sort((a, b) => a.start - b.start);
    const before = pieces.reduce((sum, one) => sum + one.tokens_before, 0);
    const after = pieces.reduce((sum, one) => sum + one.tokens_after, 0);
    const heading = element("h3", {}, file.name, element("span", {}, `${number(before)} → ${number(after)} tokens`));
    const text = element("p", { class: "text", tabindex: "0", "aria-label": `Text of ${file.name}` });
    const whole = [...file.document.text];
    const codes = file.document.text.length === whole.length ? null : whole; // ranges count characters, not code units
    const slice = (a, b) => (codes ? codes.slice(a, b).join("") : file.document.text.slice(a, b));
    let at = 0;
    const skip = (until) => {
      if (until > at + 2) text.append(element("span", { class: "gap" }, `${number(until - at)} characters not looked at`));
      at = until;
    };
    for (const piece of pieces) {
      skip(piece.start);
      for (const unit of piece.units || []) {
        if (unit.start > at) text.append(slice(at, unit.start));
        const says = unit.importance === null ? "" : `importance ${unit.importance.toFixed(2)}, `;
        const mark = element(unit.kept ? "mark" : "span", {
          class: unit.kept ? "unit kept" : "unit",
          title: `${says}${number(unit.tokens)} tokens, ${unit.kept ? "kept" : "dropped"}`,
        });
        mark.style.setProperty("--weight", rank(unit.importance).toFixed(3));
        mark.append(slice(unit.start, unit.end));
        text.append(mark);
        at = unit.end;
      }
      if (piece.end > at) text.append(slice(at, piece.end));
      at = piece.end;
    }
    skip(whole.length);
    return element("div", { class: "source" }, heading, text);
  });
  place.replaceChildren(...sections);
  place.querySelectorAll(".text").forEach((text, i) => (text.scrollTop = scrolled[i] || 0));
}

export function showNumbers(place, rows) {
  place.replaceChildren(...rows.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
}

export function showSession(chart, body, asked) {
  const most = Math.max(...asked.map((one) => one.before), 1);
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const width = 600;
  const draw = (name, attributes, text) => {
    const made = document.createElementNS(space, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text) made.textContent = text;
    svg.append(made);
  };
  svg.setAttribute("viewBox", `0 0 ${width} 120`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `Tokens given and kept for ${asked.length} questions; the table below has the numbers.`);
  const step = width / Math.max(asked.length, 6);
  asked.forEach((one, i) => {
    const bar = (value, kind, inset) => {
      const height = (value / most) * 90;
      draw("rect", { class: `bar ${kind}`, x: i * step + inset, y: 100 - height, width: step - 2 * inset, height, rx: 2 });
    };
    bar(one.before, "whole", step * 0.12);
    bar(one.after, "kept", step * 0.26);
    draw("text", { x: i * step + step / 2, y: 115, "text-anchor": "middle" }, String(i + 1));
  });
  chart.replaceChildren(svg);
  body.replaceChildren(
    ...asked.map((one, i) =>
      element("tr", {}, ...[`${i + 1}. ${one.question}`, number(one.before), number(one.after), seconds(one.seconds)].map((cell) => element("td", {}, cell))),
    ),
  );
}
