// The shell: who is signed in, the pages and the way between them, and the state of the live stream.
import { api } from "./api.js";
import { h, icon, put } from "./dom.js";
import { clock } from "./format.js";
import { onStream } from "./live.js";
import { me } from "./me.js";

// Where a page stands in the menu, and its module. #/name, #/name/part and ?queries behind it are the page's own.
const PAGES = [
	["Now", [["overview", "Overview"], ["events", "Live events"]]],
	["People", [["connections", "Connections"], ["users", "User"], ["rooms", "Rooms"], ["chats", "Chats & queue"], ["presence", "Presence"]]],
	["Server", [["nodes", "Nodes"], ["limits", "Limits"], ["audit", "Audit"], ["settings", "Settings"]]],
];
const TITLES = Object.fromEntries(PAGES.flatMap(([, pages]) => pages));

const id = (name) => document.getElementById(name);
let leave = () => {};
let shown = 0;

function read() {
	const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
	const [name, ...rest] = path.split("/").map(decoded);
	return { name: name in TITLES ? name : "overview", rest, query: Object.fromEntries(new URLSearchParams(search)) };
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
	for (const link of id("nav").querySelectorAll("a")) {
		if (link.dataset.page === route.name) link.setAttribute("aria-current", "page");
		else link.removeAttribute("aria-current");
	}
	document.title = `${[...route.rest, TITLES[route.name]].join(" · ")} · insightdesk_rt`;
	const page = await import(`./pages/${route.name}.js`);
	if (mine !== shown) return;
	id("banner").hidden = true;
	const root = h("div.page", { data: { page: route.name } });
	put(id("page"), root);
	id("main").scrollTop = 0;
	leave = page.show(root, route) ?? (() => {});
}

function menu(open) {
	document.body.classList.toggle("menu-open", open);
	id("menu").setAttribute("aria-expanded", open);
}

function state(is, since) {
	const text = { up: "live", down: "stream lost", wait: "connecting" }[is];
	for (const dot of [id("stream"), id("bar-state")]) {
		dot.dataset.is = { up: "good", down: "bad" }[is] ?? "wait";
		dot.textContent = text;
	}
	id("banner").hidden = is !== "down";
	if (is === "down") id("banner").textContent = `The live stream is lost. What stands here is of ${clock(since)}; trying again.`;
}

function shell() {
	put(id("nav"), PAGES.map(([group, pages]) => [
		h("h2", group),
		h("ul", pages.map(([name, title]) => h("li", h("a", { href: `#/${name}`, data: { page: name } }, icon(name), h("span", title))))),
	]));
	put(id("menu"), icon("menu"));
	id("me-name").textContent = me.name;
	id("me-scope").textContent = me.scope;
	id("me-scope").title = me.may("operator") ? "" : "You may look, and change nothing.";
	const name = () => {
		id("theme").textContent = theme.names[theme.now];
		id("theme").title = `Colours: ${theme.names[theme.now]}. Press for the next.`;
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
		const busy = event.target.closest?.("input, select, textarea, dialog");
		if (event.key === "/" && !busy) {
			const search = document.querySelector("#page input");
			if (search) {
				event.preventDefault();
				search.focus();
			}
		}
	});
	document.querySelector(".skip").addEventListener("click", (event) => {
		event.preventDefault(); // the hash names the page
		id("main").focus();
	});
	id("nav").addEventListener("click", (event) => {
		// The page that is there already begins anew.
		const link = event.target.closest("a");
		if (link && link.getAttribute("href") === location.hash) show();
	});
}

onStream(state);
Object.assign(me, await api("GET", "session").catch(() => location.reload()));
shell();
addEventListener("hashchange", show);
show();
