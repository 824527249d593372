"use strict";

// Cards of a run: choose one, or filter by any word. Without script every card is simply there.
for (const section of document.querySelectorAll("[data-samples]")) {
  const controls = section.querySelector(".controls");
  const picker = controls.querySelector("select");
  const filter = controls.querySelector("input");
  const count = controls.querySelector("[data-count]");
  const cards = [...section.querySelectorAll(".card")];
  const show = () => {
    const wanted = filter.value.trim().toLowerCase();
    let shown = 0;
    cards.forEach((card, place) => {
      const isPicked = picker.value === "" || picker.value === String(place);
      card.hidden = !(isPicked && card.textContent.toLowerCase().includes(wanted));
      shown += card.hidden ? 0 : 1;
    });
    count.textContent = shown === cards.length ? `all ${shown}` : `${shown} of ${cards.length}`;
  };
  picker.addEventListener("change", show);
  filter.addEventListener("input", show);
  controls.hidden = false;
  show();
}

// The sample browser: one prompt at a time out of many.
const COLOURS = 10;
const CELLS = 4e6; // of the table that compares two texts; longer ones are not compared word by word

const node = (name, className, ...inside) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...inside);
  return made;
};
const written = (value, sign = "") =>
  `${value > 0 ? sign : ""}${value.toFixed(2)}`.replace("-", "\u2212");

// Which words of a text are not in the other, by their longest common subsequence.
const added = (text, other) => {
  const split = (s) => s.match(/\S+\s*/g) ?? [];
  const bare = (words) => words.map((word) => word.trim());
  const words = split(text), a = bare(words), b = bare(split(other));
  const isNew = a.map(() => true);
  if (a.length * b.length > CELLS) return words.map((word) => [word, false]);
  const wide = b.length + 1, best = new Uint16Array((a.length + 1) * wide);
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      best[i * wide + j] = a[i] === b[j]
        ? best[(i + 1) * wide + j + 1] + 1
        : Math.max(best[(i + 1) * wide + j], best[i * wide + j + 1]);
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (a[i] === b[j]) { isNew[i] = false; i++; j++; }
    else if (best[(i + 1) * wide + j] >= best[i * wide + j + 1]) i++;
    else j++;
  }
  return words.map((word, i) => [word, isNew[i]]);
};

// A text whose new words are marked, neighbours together, without the space behind them.
const marked = (text, other) => {
  const runs = [];
  for (const [word, isNew] of added(text, other)) {
    if (runs.at(-1)?.isNew === isNew) runs.at(-1).text += word;
    else runs.push({ isNew, text: word });
  }
  const pieces = runs.map(({ isNew, text }) => isNew
    ? [node("mark", "", text.trimEnd()), text.slice(text.trimEnd().length)]
    : [node("span", "", text)]);
  return node("p", "", ...(text ? pieces.flat() : ["(nothing)"]));
};

for (const section of document.querySelectorAll("[data-browser]")) {
  const { names, colours, base, focus, rows } = JSON.parse(section.querySelector("script").textContent);
  const at = (name) => section.querySelector(`[data-${name}]`);
  const [filter, sort, focused, compared, list, count, shown] =
    ["filter", "sort", "focus", "base", "list", "count", "shown"].map(at);
  const searched = rows.map(([prompt, texts]) => [prompt, ...texts].join("\n").toLowerCase());
  const own = () => (focused ? Number(focused.value) : 0);
  const other = () => (compared ? Number(compared.value) : 0);
  const gain = (scores, method) =>
    scores[method] === null || scores[other()] === null ? null : scores[method] - scores[other()];

  const KEYS = {
    data: () => 0,
    gain: (scores) => -(gain(scores, own()) ?? -Infinity),
    loss: (scores) => gain(scores, own()) ?? Infinity,
    best: (scores) => -(scores[own()] ?? -Infinity),
    worst: (scores) => scores[own()] ?? Infinity,
  };

  const answer = (place, method) => {
    const [, texts, scores] = rows[place];
    const who = node("div", "who", node("span", `mark c${colours[method] % COLOURS}`), node("span", "", names[method]));
    if (scores[method] !== null) who.append(node("span", "score", written(scores[method])));
    const more = gain(scores, method);
    if (method !== other() && more !== null) who.append(node("span", more < 0 ? "gain loss" : "gain", written(more, "+")));
    if (method === other() && names.length > 1) who.append(node("span", "gain", "compared with"));
    const text = method === other() || texts[other()] === null ? node("p", "", texts[method] || "(nothing)")
      : marked(texts[method], texts[other()]);
    return node("div", method === own() && names.length > 1 ? "answer focus" : "answer", who, text);
  };

  const show = () => {
    shown.replaceChildren();
    const place = list.value === "" ? null : Number(list.value);
    const total = list.options.length;
    count.textContent = total ? `${list.selectedIndex + 1} of ${total}${total < rows.length ? `, out of ${rows.length}` : ""}`
      : "nothing found";
    for (const button of section.querySelectorAll("[data-step]")) {
      const next = list.selectedIndex + Number(button.dataset.step);
      button.disabled = next < 0 || next >= total;
    }
    if (place === null) return;
    const rank = (method) => (method === other() ? 0 : method === own() ? 1 : 2);
    const order = [...names.keys()].sort((a, b) => rank(a) - rank(b));
    const answers = order.filter((method) => rows[place][1][method] !== null).map((method) => answer(place, method));
    shown.append(node("h3", "", rows[place][0]), node("div", "answers", ...answers));
  };

  const line = (place) => {
    const [prompt, , scores] = rows[place];
    const value = own() === other() ? scores[own()] : gain(scores, own());
    const sign = own() === other() ? "" : "+";
    const option = node("option", "", `${value === null ? "" : written(value, sign).padEnd(8, "\u2002")}${prompt}`);
    option.value = place;
    return option;
  };

  const order = () => {
    const wanted = filter.value.trim().toLowerCase(), key = KEYS[sort.value], before = list.value;
    const places = [...rows.keys()].filter((place) => searched[place].includes(wanted));
    const keys = new Map(places.map((place) => [place, key(rows[place][2])]));
    places.sort((a, b) => (keys.get(a) < keys.get(b) ? -1 : keys.get(a) > keys.get(b) ? 1 : a - b));
    list.replaceChildren(...places.map(line));
    if (places.length) list.selectedIndex = sort.value === "data" && places.includes(Number(before)) && before !== ""
      ? places.indexOf(Number(before)) : 0;
    show();
  };

  if (focused) { focused.value = focus; compared.value = base; }
  sort.value = names.length > 1 ? "gain" : "data";
  for (const control of [sort, focused, compared]) control?.addEventListener("change", order);
  filter.addEventListener("input", order);
  list.addEventListener("change", show);
  for (const button of section.querySelectorAll("[data-step]"))
    button.addEventListener("click", () => { list.selectedIndex += Number(button.dataset.step); show(); });
  at("plain").hidden = true;
  at("app").hidden = false;
  order();
}
