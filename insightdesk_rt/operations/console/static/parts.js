// @ts-check
// Small parts that several pages share.
import { part, query } from "./api.js";
import { field, values } from "./dialog.js";
import { h } from "./dom.js";
import { ago, num } from "./format.js";

export const NAMESPACES = ["/tickets", "/chat", "/notifications", "/presence", "/dashboard", "/"];
export const ROLES = ["customer", "agent", "admin"];
export const choice = (all, any) => [["", any], ...all.map((one) => [one, one])];

export const dot = (is, text) => h("span.dot", { data: { is } }, text);
export const tag = (text, is = "") => h("span.tag", { data: { is } }, text);
export const small = (...what) => h("small", what);
/** @type {(text: any, onclick: (event: any) => void, options?: {danger?: boolean, label?: string}) => HTMLElement} */
export const button = (text, onclick, { danger = false, label } = {}) =>
	h("button.small", { type: "button", onclick, class: danger ? "danger" : "", "aria-label": label }, text);

/** The top of a page: title, a sentence, and its actions. */
export function heading(title, text, ...actions) {
	return h("header.heading", h("div", h("h1", title), text && h("p.soft", text)), h("div.row", actions));
}

export const section = (title, ...content) => h("section", h("h2", title), content);

/** A number with its label. Returns {element, set(text, below)}. */
export function tile(name) {
	const value = h("b", h("span.skeleton", "000"));
	const below = h("small");
	return {
		element: h("div.tile.card", h("span", name), value, below),
		set(text, more = "") {
			value.textContent = text;
			below.textContent = more;
		},
	};
}

/** The address of a user's page; `customer`: of a customer, with separate ids. */
export const userUrl = (id, customer = false) => `#/users/${part(id)}${customer ? "?kind=customer" : ""}`;
const roomUrl = (room, namespace = "") => `#/rooms/${part(room)}${query({ namespace })}`;
export const connectionsUrl = (filters) => `#/connections${query(filters)}`;

/** A user's name with the id below, as a link to the user's page. */
export function person(user, role = "") {
	if (!user) return h("span.soft", "not yet known");
	return [h("a", { href: userUrl(user.id, user.role === "customer") }, user.name || user.id), small(user.name ? user.id : "", role && ` · ${role}`)];
}

export const room = (name, namespace) => h("a.room", { href: roomUrl(name, namespace) }, name);

const FEW = 3;
const MAX_CHARS = 200; // of a filter, as the API allows

/**
 * A line of filters; a phone shows the first two of many. `changed(values)` is called when the user stops typing.
 * @param {import("./dialog.js").Field[]} fields
 * @param {(values: import("./dialog.js").Values) => void} changed
 */
export function filters(fields, changed, settle_ms = 350) {
	/** @type {ReturnType<typeof setTimeout> | undefined} */
	let timer;
	const later = (ms) => {
		clearTimeout(timer);
		timer = setTimeout(() => changed(values(form)), ms);
	};
	const form = h("form.filters", {
		role: "search",
		class: fields.length > FEW ? "many" : "",
		oninput: (event) => later(event.target.tagName === "SELECT" || event.target.type === "checkbox" ? 0 : settle_ms),
		onsubmit(event) {
			event.preventDefault();
			later(0);
		},
	}, fields.map((one) => field(one.options || one.type ? one : { maxlength: MAX_CHARS, ...one })), fields.length > FEW && h("button.small.all-filters", { type: "button", onclick: () => form.classList.add("all") }, "More filters"));
	return form;
}

/** Return a word of the address if it is allowed, else the first one: addresses are shared, and become outdated. */
export const among = (words, word) => (words.includes(word) ? word : words[0]);

/** Keep the filters in the address, so that it can be shared; this does not reload the page. */
export function remember(page, given) {
	history.replaceState(null, "", `#/${page}${query(given)}`);
}

/** A sentence about nodes that did not answer; empty when all did. */
export function missing(nodes = []) {
	return nodes.length ? h("p.note", { data: { is: "warn" } }, `Not all nodes answered in time: ${nodes.join(", ")}. Their data is missing here.`) : "";
}

export const people = (count) => `${num(count)} ${count === 1 ? "connection" : "connections"}`;

/** Return the sentence that a dialog shows before an action on several connections. */
export function counted({ count, missing = [] }) {
	return `${people(count)} will be closed.` + (missing.length ? ` Not counted: ${missing.join(", ")}.` : "");
}

const STATUS = { online: "good", busy: "warn", away: "warn", offline: "off" };
/** A user's status; for an offline user also when they were last seen. */
export const presence = (status, lastSeen) => [dot(STATUS[status] ?? "off", status), status === "offline" ? small("seen ", ago(lastSeen, "never")) : null];
