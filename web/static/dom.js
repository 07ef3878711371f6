// Building the page. Text only ever becomes text (textContent): whatever a subject or a reason holds, it is shown, never run.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

/** An element: h("p", "class names", "text" | node | [nodes…]). */
export function h(tag, className = "", content = null) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  return fill(element, content);
}

/** Replaces what is in `element`; text that is already there is left alone, so that a selection survives. */
export function fill(element, content) {
  if (content === null || content === undefined) {
    if (element.firstChild) element.replaceChildren();
  } else if (Array.isArray(content)) {
    element.replaceChildren(...content.filter((one) => one !== null));
  } else if (content instanceof Node) {
    element.replaceChildren(content);
  } else if (element.textContent !== String(content) || element.childElementCount) {
    element.textContent = String(content);
  }
  return element;
}

/** An element whose full text is a tooltip, because the layout may cut it. */
export function cut(text, className = "") {
  const element = h("span", `cut ${className}`, text);
  element.title = text;
  return element;
}

export function svg(tag, attributes = {}, children = []) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const kept = new WeakMap(); // parent -> key -> child

/** Keeps one child per item, in order, moving and updating those that are there: focus, hover and selection survive. */
export function keyed(parent, items, key, create, update) {
  const held = kept.get(parent) ?? new Map();
  const rows = new Map();
  let place = parent.firstChild;
  for (const item of items) {
    const name = key(item);
    if (rows.has(name)) continue;
    let row = held.get(name);
    const fresh = row === undefined;
    if (fresh) row = create(item);
    rows.set(name, row);
    held.delete(name);
    update?.(row, item, fresh);
    if (row === place) place = place.nextSibling;
    else parent.insertBefore(row, place);
  }
  for (const gone of held.values()) gone.remove();
  kept.set(parent, rows);
}

/** Bars of equal width from numbers ≥ 0; where all are 0, a base line. */
export function bars(values, element = svg("svg", { class: "bars", viewBox: "0 0 100 24", preserveAspectRatio: "none" })) {
  const top = Math.max(...values, 0);
  const width = 100 / values.length;
  while (element.childElementCount < values.length) element.append(svg("rect"));
  values.forEach((value, i) => {
    const height = top > 0 && value > 0 ? Math.max(2, (value / top) * 23) : 1;
    const rect = element.children[i];
    rect.setAttribute("class", value > 0 ? "" : "none");
    rect.setAttribute("x", (i * width).toFixed(2));
    rect.setAttribute("y", (24 - height).toFixed(2));
    rect.setAttribute("width", (width * 0.72).toFixed(2));
    rect.setAttribute("height", height.toFixed(2));
  });
  return element;
}

/** A line through numbers, scaled between the least and the greatest. */
export function line(values, element = svg("svg", { class: "line", viewBox: "0 0 100 24", preserveAspectRatio: "none" })) {
  const low = Math.min(...values);
  const span = Math.max(...values) - low || 1;
  const step = 100 / Math.max(1, values.length - 1);
  const points = values.map((value, i) => `${(i * step).toFixed(2)} ${(22 - ((value - low) / span) * 20).toFixed(2)}`);
  if (!element.firstChild) element.append(svg("path"));
  element.firstChild.setAttribute("d", values.length > 1 ? `M${points.join("L")}` : "");
  return element;
}
