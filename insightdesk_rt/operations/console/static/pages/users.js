// @ts-check
// User: everything about one user, and the actions on them. Without an id: a search.
import { part } from "../api.js";
import { connectionTable, closedTable, disconnectUser } from "../clients.js";
import { h, put } from "../dom.js";
import { num } from "../format.js";
import { live } from "../live.js";
import { operator } from "../me.js";
import { blockTable, newBlock, newRevocation, revocationTable } from "../refusals.js";
import { field } from "../dialog.js";
import { button, heading, missing, person, presence, room, section, tag } from "../parts.js";
import { table } from "../table.js";

export function show(root, { rest, query }) {
	return rest[0] ? one(root, rest[0], query.kind === "customer") : search(root);
}

function search(root) {
	const list = table({
		label: "Staff",
		key: (one) => one.userId,
		empty: "No agent or admin was connected within 30 days.",
		columns: [
			{ label: "Name", cell: (one) => person({ id: one.userId, name: one.name }), name: true, keep: true },
			{ label: "Status", cell: (one) => presence(one.status, one.lastSeen), keep: true },
			{ label: "Role", cell: (one) => one.role ?? "–", keep: true },
			{ label: "Team", cell: (one) => (one.teamId ? tag(one.teamId) : "–"), keep: true },
		],
	});
	put(root,
		heading("User", "Connections, presence, rooms and recent closes of one user; revoke or block them."),
		h("form.filters", {
			role: "search",
			onsubmit(event) {
				event.preventDefault();
				const id = event.target.elements.id.value.trim();
				if (id) location.hash = `#/users/${part(id)}`;
			},
		}, field({ name: "id", label: "User id", required: true, maxlength: 128, placeholder: "ann" }), h("div", h("button.go", { type: "submit" }, "Show"))),
		section("Agents and admins", list.element),
	);
	return live({ "presence?limit=100": (body) => list.set(body.items) });
}

/** Return the text below a list that shows only a part. */
const of = (shown, count) => (count > shown.length ? `${num(shown.length)} of ${num(count)} are shown.` : "");

function one(root, id, customer) {
	const whom = customer ? { customerId: id } : { userId: id };
	const title = h("h1", id);
	const facts = h("div.row", h("span.skeleton", "loading"));
	const lost = h("div");
	const rooms = h("div.card.pad", h("span.skeleton", "loading"));
	const open = connectionTable({ of: id });
	const closed = closedTable();
	const blocks = blockTable("Neither this user nor an address of theirs is blocked.");
	const revocations = revocationTable("No token and no session of this user is revoked.");
	const rules = h("div.rulings", { hidden: true }, section("Blocks", blocks.element), section("Revocations", revocations.element));
	const totals = [open, closed].map(() => h("span.soft"));
	put(root,
		h("header.heading", h("div", title, facts), h("div.row", operator(() => [
			button("Disconnect", () => disconnectUser(id, customer), { danger: true }),
			button("Revoke", () => newRevocation(whom), { danger: true }),
			button("Block", () => newBlock(whom), { danger: true }),
		]))),
		lost,
		section("Connections", open.element, totals[0]),
		section("Rooms", rooms),
		section("Closed connections", closed.element, totals[1]),
		rules,
	);
	return live({
		[`${customer ? "customers" : "users"}/${part(id)}`]: (user) => {
			title.textContent = user.name || id;
			put(facts, presence(user.presence.status, user.presence.lastSeen), h("code", id), user.role && tag(user.role), user.teamId && tag(`team ${user.teamId}`));
			put(lost, missing(user.missing));
			open.set(user.connections);
			closed.set(user.closed);
			totals[0].textContent = of(user.connections, user.connectionCount);
			totals[1].textContent = of(user.closed, user.closedCount);
			put(rooms, user.rooms.length ? h("div.rooms", user.rooms.map((name) => room(name)), h("span.soft", of(user.rooms, user.roomCount))) : h("p.soft", "In no room."));
			rules.hidden = !user.blocks; // an older node does not send them
			blocks.set(user.blocks ?? []);
			revocations.set(user.revocations ?? []);
		},
	});
}
