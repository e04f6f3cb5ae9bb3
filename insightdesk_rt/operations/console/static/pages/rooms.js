// @ts-check
// Rooms: the rooms of all nodes; and one room with its members and its last events.
import { part, query } from "../api.js";
import { disconnectAll } from "../clients.js";
import { h, put } from "../dom.js";
import { at, bytes, num } from "../format.js";
import { live } from "../live.js";
import { operator } from "../me.js";
import { among, button, choice, connectionsUrl, filters, heading, missing, NAMESPACES, person, remember, room, section, tag } from "../parts.js";
import { pager, table } from "../table.js";

const LIMIT = 50;
const SORTS = ["-members", "members", "-name", "name"];

export function show(root, route) {
	return route.rest[0] ? one(root, route.rest[0], route.query.namespace ?? "") : all(root, route.query);
}

function all(root, given) {
	let asked = { prefix: given.prefix ?? "", namespace: given.namespace ?? "" };
	let sort = among(SORTS, given.sort);
	let cursor = "";
	let end = () => {};
	let list;
	const lost = h("div");
	const holder = h("div");
	const pages = pager((next) => {
		cursor = next;
		watch();
	});
	put(root,
		heading("Rooms", "An event sent to a room reaches its members on all nodes."),
		filters([
			{ name: "prefix", label: "Name begins with", value: asked.prefix, placeholder: "ticket:" },
			{ name: "namespace", label: "Namespace", value: asked.namespace, options: choice(NAMESPACES, "any") },
		], (now) => {
			asked = now;
			again();
		}),
		lost, holder, pages.element,
	);

	function again() {
		cursor = "";
		pages.reset();
		remember("rooms", { ...asked, sort: sort === "-members" ? "" : sort });
		watch();
	}

	function fresh() {
		list = table({
			label: "Rooms",
			key: (row) => row.namespace + row.room,
			empty: "No room matches. A room exists while it has members.",
			sort,
			onsort(name) {
				sort = name;
				fresh();
				again();
			},
			columns: [
				{ label: "Room", cell: (row) => room(row.room, row.namespace), sort: "name", name: true, keep: true },
				{ label: "Namespace", cell: (row) => tag(row.namespace), keep: true },
				{ label: "Members", cell: (row) => num(row.members), num: true, sort: "members", keep: true },
				{ label: "Nodes", cell: (row) => num(row.nodes), num: true, keep: true },
			],
		});
		put(holder, list.element);
	}

	function watch() {
		end();
		end = live({
			["rooms" + query({ ...asked, sort, limit: LIMIT, cursor })]: (body) => {
				put(lost, missing(body.missing), body.cut && h("p.note", "A node has more than 5,000 such rooms and lists only the 5,000 largest."));
				list.set(body.items);
				pages.set(body.next);
			},
		});
	}

	fresh();
	watch();
	return () => end();
}

function one(root, name, namespace) {
	const lost = h("div");
	const count = h("h2", "Members");
	const members = table({
		label: "Members",
		key: (member) => member.namespace + member.sid,
		empty: "Nobody is in this room now.",
		columns: [
			{ label: "User", cell: (member) => person(member.user, member.role), name: true, keep: true },
			{ label: "Namespace", cell: (member) => tag(member.namespace), keep: true },
			{ label: "Socket", cell: (member) => h("a", { href: connectionsUrl({ sid: member.sid }) }, h("code", member.sid)), keep: true },
			{ label: "Node", cell: (member) => member.node, keep: true },
		],
	});
	const entries = table({
		label: "Last events",
		key: (entry) => entry.namespace + entry.offset,
		empty: "No events within the last hour.",
		columns: [
			{ label: "When", cell: (entry) => at(entry.at), fix: true },
			{ label: "Event", cell: (entry) => h("code", entry.event) },
			{ label: "Namespace", cell: (entry) => tag(entry.namespace) },
			{ label: "Rooms", cell: (entry) => h("div.rooms", entry.rooms.map((other) => room(other, entry.namespace))) },
			{ label: "Size", cell: (entry) => bytes(entry.bytes), num: true },
			{ label: "Offset", cell: (entry) => h("code", entry.offset), wide: true },
		],
	});
	const where = { room: name, ...(namespace ? { namespace } : {}) };
	put(root,
		heading(name, namespace ? `A room in ${namespace}.` : "A room, in all namespaces.",
			h("a", { href: `#/events${query(where)}` }, "Live events"),
			h("a", { href: connectionsUrl(where) }, "Connections"),
			operator(() => button("Disconnect members", () => disconnectAll(where), { danger: true })),
		),
		lost,
		h("section", count, members.element),
		section("Last events", entries.element),
	);
	return live({
		[`rooms/${part(name)}${query({ namespace })}`]: (body) => {
			put(lost, missing(body.missing));
			count.textContent = body.memberCount > body.members.length ? `Members: ${num(body.members.length)} of ${num(body.memberCount)}` : `Members: ${num(body.memberCount)}`;
			members.set(body.members);
			entries.set(body.entries);
		},
	});
}
