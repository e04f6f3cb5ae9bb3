// @ts-check
// Presence: agents and admins by status; any user by id.
import { query } from "../api.js";
import { h, put } from "../dom.js";
import { num } from "../format.js";
import { live } from "../live.js";
import { among, choice, filters, heading, person, remember, presence, tag, tile } from "../parts.js";
import { pager, table } from "../table.js";

const LIMIT = 100;
const STATUSES = ["online", "busy", "away", "offline"];

export function show(root, { query: given }) {
	let asked = { userIds: given.userIds ?? "", status: among(["", ...STATUSES], given.status) };
	let cursor = "";
	let end = () => {};
	const tiles = Object.fromEntries(STATUSES.map((status) => [status, tile(`Agents ${status}`)]));
	const list = table({
		label: "Presence",
		key: (one) => one.userId,
		empty: "Nobody matches. Agents and admins who were connected within 30 days are listed; find customers by their ids.",
		columns: [
			{ label: "User", cell: (one) => person({ id: one.userId, name: one.name }), name: true, keep: true },
			{ label: "Status", cell: (one) => presence(one.status, one.lastSeen), keep: true },
			{ label: "Role", cell: (one) => one.role ?? "–", keep: true },
			{ label: "Team", cell: (one) => (one.teamId ? tag(one.teamId) : "–"), keep: true },
		],
	});
	const pages = pager((next) => {
		cursor = next;
		watch();
	});
	put(root,
		heading("Presence", "Who is connected: one status per user, over all connections and nodes."),
		h("div.tiles", STATUSES.map((status) => tiles[status].element)),
		filters([
			{ name: "userIds", label: "User ids", value: asked.userIds, placeholder: "ann,bob", maxlength: 1500 },
			{ name: "status", label: "Status", value: asked.status, options: choice(STATUSES, "any") },
		], (now) => {
			asked = { ...now, userIds: now.userIds.split(",").map((id) => id.trim()).filter(Boolean).join(",") };
			cursor = "";
			pages.reset();
			remember("presence", asked);
			watch();
		}),
		list.element, pages.element,
	);

	function watch() {
		end();
		end = live({
			["presence" + query(asked.userIds ? asked : { ...asked, limit: LIMIT, cursor })]: (body) => {
				list.set(body.items);
				pages.set(body.next);
			},
			"metrics/agents": (now) => STATUSES.forEach((status) => tiles[status].set(num(now[status]))),
		});
	}

	watch();
	return () => end();
}
