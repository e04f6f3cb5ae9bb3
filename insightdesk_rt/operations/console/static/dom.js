// @ts-check
// Makes elements. All data becomes text nodes or attributes here; nothing else puts data into a page.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an element: h("a.tag", {href: "#"}, "text", node, [more]). `on…` are listeners, `data` is the dataset.
 * @param {string} what
 * @param {any} [props]
 * @param {...any} children
 * @returns {any} the element; its type depends on the tag
 */
export function h(what, props, ...children) {
	const [tag, ...classes] = what.split(".");
	return fill(document.createElement(tag), classes, props, children);
}

/**
 * Make an SVG element.
 * @param {string} what
 * @param {any} [props]
 * @param {...any} children
 * @returns {any}
 */
export function s(what, props, ...children) {
	const [tag, ...classes] = what.split(".");
	return fill(document.createElementNS(SVG, tag), classes, props, children);
}

/** Replace the children of an element. */
export function put(element, ...children) {
	element.replaceChildren(...nodes(children));
	return element;
}

function fill(element, classes, props, children) {
	if (props !== null && (typeof props !== "object" || props instanceof Node || Array.isArray(props))) {
		children = [props, ...children];
		props = null;
	}
	if (classes.length) element.classList.add(...classes);
	for (const [name, value] of Object.entries(props ?? {})) {
		if (value === undefined || value === null || value === false) continue;
		if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
		else if (name === "data") Object.assign(element.dataset, value);
		else if (name === "value") element.value = value;
		else if (name === "class") element.classList.add(...value.split(" ").filter(Boolean));
		else element.setAttribute(name, value === true ? "" : value);
	}
	element.append(...nodes(children));
	return element;
}

function nodes(children) {
	return children.flat(2).filter((child) => child !== null && child !== undefined && child !== false)
		.map((child) => (child instanceof Node ? child : document.createTextNode(String(child))));
}

/** @type {Record<string, string>} */
const ICONS = {
	overview: "M3 3h8v8H3zM13 3h8v5h-8zM13 10h8v11h-8zM3 13h8v8H3z",
	events: "M3 12h4l3-8 4 16 3-8h4",
	connections: "M9 3v5M15 3v5M6 8h12v3a6 6 0 0 1-12 0zM12 17v4",
	users: "M12 11a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM4 21c0-4 4-6 8-6s8 2 8 6",
	rooms: "M4 5h16v11H9l-5 4z",
	chats: "M3 4h13v9H8l-5 4zM8 17h9l4 3V9h-2",
	presence: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM12 7v5l3 2",
	limits: "M4 18a9 9 0 1 1 16 0M12 14l4-5",
	webhooks: "M9 8a4 4 0 1 1 5 4l3 5M7 12a4 4 0 1 0 3 6h8",
	nodes: "M4 4h16v6H4zM4 14h16v6H4zM8 7h.01M8 17h.01",
	audit: "M6 3h9l4 4v14H6zM9 11h7M9 15h7",
	settings: "M4 7h10M18 7h2M4 17h2M10 17h10M14 4v6M8 14v6",
	menu: "M4 6h16M4 12h16M4 18h16",
	close: "M6 6l12 12M18 6L6 18",
};

/** A small decorative drawing, hidden from screen readers. */
export function icon(name) {
	return s("svg.ico", { viewBox: "0 0 24 24", "aria-hidden": "true", focusable: "false" }, s("path", { d: ICONS[name] }));
}
