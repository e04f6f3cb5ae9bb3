// @ts-check
// The shell: who is signed in, the menu and its pages, and the state of the live stream.
import { api } from "./api.js";
import { h, icon, put } from "./dom.js";
import { clock } from "./format.js";
import { onStream, patience } from "./live.js";
import { me } from "./me.js";

// The groups of the menu, with the pages' modules and titles. A page handles its own #/name/part and ?query.
/** @type {[string, [string, string][]][]} */
const PAGES = [
	["Now", [["overview", "Overview"], ["events", "Live events"]]],
	["People", [["connections", "Connections"], ["users", "User"], ["rooms", "Rooms"], ["chats", "Chats & queue"], ["presence", "Presence"]]],
	["Server", [["nodes", "Nodes"], ["limits", "Limits"], ["webhooks", "Webhooks"], ["audit", "Audit"], ["settings", "Settings"]]],
];
const TITLES = Object.fromEntries(PAGES.flatMap(([, pages]) => pages));

/** @returns {any} the element, which console.html has */
const id = (name) => document.getElementById(name);
let leave = () => {};
let shown = 0;
/** @type {import("./live.js").StreamState} */
let now = { is: "wait" };
/** @type {Record<string, number>} */
const tries = {}; // failed attempts to load a page's module
const SLOW_MS = 400;

function read() {
	const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
	const [name, ...rest] = path.split("/").map(decoded);
	return { name: Object.hasOwn(TITLES, name) ? name : "overview", rest, query: Object.fromEntries(new URLSearchParams(search)) };
}

function decoded(text) {
	try {
		return decodeURIComponent(text);
	} catch {
		return text;
	}
}

async function show() {
	const route = read();
	const mine = ++shown;
	leave();
	leave = () => {};
	menu(false);
	// Back and Forward work behind an open dialog, which belongs to the page that is left.
	for (const dialog of document.querySelectorAll("dialog")) if (dialog.open) dialog.close();
	for (const link of id("nav").querySelectorAll("a")) {
		if (link.dataset.page === route.name) link.setAttribute("aria-current", "page");
		else link.removeAttribute("aria-current");
	}
	document.title = `${[...route.rest, TITLES[route.name]].join(" · ")} · insightdesk_rt`;
	const slow = setTimeout(() => put(id("page"), alone(TITLES[route.name], h("p.soft", { role: "status" }, "Loading the page …"))), SLOW_MS);
	const page = await load(route.name).catch(() => null).finally(() => clearTimeout(slow));
	if (mine !== shown) return;
	if (!page) return unloaded(route.name);
	const root = h("div.page", { data: { page: route.name } });
	put(id("page"), root);
	id("main").scrollTop = 0;
	leave = page.show(root, route) ?? (() => {});
}

/** Return a page's module. Rejects if it cannot be loaded. */
function load(name) {
	const late = new Promise((_, refuse) => setTimeout(refuse, patience.open_ms));
	// Some browsers never retry a module whose address once failed to load, so a retry uses another address.
	return Promise.race([import(`./pages/${name}.js${tries[name] ? `?again=${tries[name]}` : ""}`), late]);
}

function unloaded(name) {
	tries[name] = (tries[name] ?? 0) + 1;
	state({ is: "down", since: Date.now(), why: "The page could not be loaded.", over: true });
	put(id("page"), alone(TITLES[name], h("div.row", h("button", { type: "button", onclick: show }, "Try again"))));
}

const alone = (title, ...content) => h("div.page", h("h1", title), content);

function menu(open) {
	document.body.classList.toggle("menu-open", open);
	id("menu").setAttribute("aria-expanded", String(open));
}

/** @type {Record<string, string[]>} */
const DOTS = { up: ["good", "live"], down: ["bad", "stream lost"], wait: ["wait", "connecting"], partly: ["warn", "no answer"], wrong: ["good", "live"] };

/**
 * Show the state of the stream. `over`: it is not opened again.
 * @param {import("./live.js").StreamState & {over?: boolean}} state
 */
function state({ is, since, why, over = false }) {
	// An outage lasts until a stream says otherwise, also when another page is opened in the meantime.
	if (is === "wait" && ["down", "partly"].includes(now.is)) return;
	// An outage began when the first page noticed it: the stream of a new page does not know about earlier ones.
	if (["down", "partly"].includes(is) && ["down", "partly"].includes(now.is)) since = Math.min(since ?? Infinity, now.since ?? Infinity);
	now = { is, since };
	for (const dot of [id("stream"), id("bar-state")]) [dot.dataset.is, dot.textContent] = DOTS[is];
	/** @type {Record<string, () => string>} */
	const texts = {
		down: () => `The live stream is lost: ${why} This page is from ${clock(since)}${over ? "." : "; trying again."}`,
		partly: () => `No answer since ${clock(since)}: ${why} Some of this page may be older.`,
		wrong: () => `This page cannot be shown: ${why}`,
	};
	const text = texts[is]?.() ?? "";
	const banner = id("banner");
	banner.hidden = !text;
	banner.dataset.is = is;
	if (banner.textContent !== text) banner.textContent = text;
	if (text) id("main").dataset.trouble = is;
	else delete id("main").dataset.trouble;
}

function shell() {
	put(id("nav"), PAGES.map(([group, pages]) => [
		h("h2", group),
		h("ul", pages.map(([name, title]) => h("li", h("a", { href: `#/${name}`, data: { page: name } }, icon(name), h("span", title))))),
	]));
	put(id("menu"), icon("menu"));
	id("me-name").textContent = me.name;
	id("me-scope").textContent = me.scope;
	id("me-scope").title = me.may("operator") ? "" : "You can view everything, but not change anything.";
	const name = () => {
		id("theme").textContent = theme.names[theme.now];
		id("theme").title = `Colours: ${theme.names[theme.now]}. Press to switch.`;
	};
	name();
	id("theme").addEventListener("click", () => {
		theme.next();
		name();
	});
	id("leave").addEventListener("click", async () => {
		await api("DELETE", "session").catch(() => {});
		location.reload();
	});
	id("menu").addEventListener("click", () => menu(!document.body.classList.contains("menu-open")));
	document.addEventListener("keydown", (event) => {
		if (event.key === "Escape" && document.body.classList.contains("menu-open")) {
			menu(false);
			id("menu").focus();
		}
		const busy = /** @type {HTMLElement} */ (event.target).closest?.("input, select, textarea, dialog");
		if (event.key === "/" && !busy) {
			const search = /** @type {HTMLInputElement | null} */ (document.querySelector("#page input"));
			if (search) {
				event.preventDefault();
				search.focus();
			}
		}
	});
	/** @type {HTMLElement} */ (document.querySelector(".skip")).addEventListener("click", (event) => {
		event.preventDefault(); // the hash is the page's address
		id("main").focus();
	});
	id("nav").addEventListener("click", (event) => {
		// A click on the open page reloads it.
		const link = /** @type {HTMLElement} */ (event.target).closest("a");
		if (link && link.getAttribute("href") === location.hash) show();
	});
}

onStream(state);
Object.assign(me, await api("GET", "session").catch(() => location.reload()));
shell();
addEventListener("hashchange", show);
show();
