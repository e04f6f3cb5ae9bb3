// @ts-check
// Live events: events of all nodes as they are published. Events from before the page was opened are not shown.
import { query } from "../api.js";
import { h, put } from "../dom.js";
import { bytes, clock, num, rate } from "../format.js";
import { stream } from "../live.js";
import { me } from "../me.js";
import { button, choice, dot, filters, heading, NAMESPACES, remember, room, small, tag, tile } from "../parts.js";
import { table } from "../table.js";

const KEPT = 300; // rows that are shown
const HELD = 1000; // events that wait while the page is paused
const DRAW_MS = 250;
const RATE_S = 10;

export function show(root, { query: given }) {
	let asked = { user: given.user ?? "", room: given.room ?? "", namespace: given.namespace ?? "", event: given.event ?? "", payload: false };
	let rows = [];
	let held = [];
	let paused = false;
	let lost = 0;
	let seen = 0;
	let changed = false;
	let end = () => {};
	const times = [];
	let number = 0;

	const tiles = { rate: tile("Events per second"), seen: tile("Received"), lost: tile("Skipped") };
	const pause = button("Pause", toggle);
	const status = h("p", { role: "status" });
	const list = table({
		label: "Live events",
		key: (row) => row.key,
		empty: "No events yet. Events that match the filter appear here as they are published, the newest first.",
		detail: (row) => h("dl.facts",
			h("dt", "Rooms"), h("dd", h("div.rooms", row.rooms.map((name) => room(name, row.namespace)))),
			row.except?.length ? [h("dt", "Not to"), h("dd", h("div.rooms", row.except.map((name) => room(name, row.namespace))))] : [],
			h("dt", "Offset"), h("dd", row.offset ? h("code", row.offset) : "none: it is volatile"),
			row.payload === undefined ? [] : [h("dt", "Payload"), h("dd", h("pre.payload", { tabindex: 0 }, JSON.stringify(row.payload, null, 2)))],
		),
		columns: [
			{ label: "When", cell: (row) => clock(row.at), fix: true },
			{ label: "Event", cell: (row) => h("code", row.event) },
			{ label: "Namespace", cell: (row) => tag(row.namespace) },
			{ label: "Rooms", cell: (row) => h("div.rooms", row.rooms.slice(0, 3).map((name) => room(name, row.namespace)), row.rooms.length > 3 && small(`and ${row.rooms.length - 3} more`)) },
			{ label: "Kind", cell: (row) => (row.volatile ? dot("off", "volatile") : dot("info", "logged")), wide: true },
			{ label: "Size", cell: (row) => bytes(row.bytes), num: true },
		],
	});
	put(root,
		heading("Live events", "Events of all nodes and back ends, as they are published.", pause, button("Clear", clear)),
		filters([
			{ name: "user", label: "Reaches user", value: asked.user, placeholder: "user id" },
			{ name: "room", label: "Room", value: asked.room, placeholder: "ticket:42" },
			{ name: "event", label: "Event", value: asked.event, placeholder: "ticket:updated" },
			{ name: "namespace", label: "Namespace", value: asked.namespace, options: choice(NAMESPACES, "any") },
			...(me.may("admin") ? [{ name: "payload", label: "Show payloads", type: "check" }] : []),
		], (now) => {
			asked = { payload: false, ...now };
			remember("events", { ...asked, payload: "" });
			clear();
			watch();
		}),
		h("div.tiles", Object.values(tiles).map((one) => one.element)),
		status, list.element,
	);

	function watch() {
		end();
		const { payload, ...rest } = asked;
		end = stream("/api/v1/events" + query({ ...rest, payload: payload ? "full" : "" }), { event: received, dropped: ({ count }) => (lost += count) }, { always: true });
	}

	function received(event) {
		seen += 1;
		times.push(Date.now());
		const row = { ...event, key: (number += 1) };
		if (paused) held = [row, ...held].slice(0, HELD);
		else {
			rows = [row, ...rows].slice(0, KEPT);
			changed = true;
		}
	}

	function draw() {
		const since = Date.now() - RATE_S * 1000;
		while (times.length && times[0] < since) times.shift();
		tiles.rate.set(rate(times.length / RATE_S), `over ${RATE_S} s`);
		tiles.seen.set(num(seen), "since the filter was set");
		tiles.lost.set(num(lost), lost ? "this browser was too slow" : "");
		const text = paused ? `Paused. ${num(held.length)}${held.length === HELD ? " or more" : ""} ${held.length === 1 ? "event waits" : "events wait"}.` : "";
		if (status.textContent !== text) status.textContent = text;
		if (changed) list.set(rows);
		changed = false;
	}

	function toggle() {
		paused = !paused;
		pause.textContent = paused ? "Resume" : "Pause";
		if (!paused) {
			rows = [...held, ...rows].slice(0, KEPT);
			held = [];
			changed = true;
		}
		draw();
	}

	function clear() {
		rows = [];
		held = [];
		times.length = seen = lost = 0;
		changed = true;
		draw();
	}

	list.set([]);
	watch();
	const timer = setInterval(draw, DRAW_MS);
	return () => {
		clearInterval(timer);
		end();
	};
}
