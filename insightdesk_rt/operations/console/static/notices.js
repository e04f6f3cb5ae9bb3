// @ts-check
// Notices: messages from admins to everybody who is connected. The list of them, and its actions.
import { api, part, query } from "./api.js";
import { tool } from "./commands.js";
import { act } from "./dialog.js";
import { h, put } from "./dom.js";
import { ago } from "./format.js";
import { operator } from "./me.js";
import { button, choice, dot, NAMESPACES, ROLES, small } from "./parts.js";

const IS = { info: "info", warning: "warn", critical: "bad" };

export function noticeList() {
	const element = h("ul.checks", h("li", h("span.skeleton", "reading notices")));
	return {
		element,
		set(items) {
			put(element, items.length ? items.map(shown) : h("li.empty", "There are no notices. A notice is shown to everybody who is connected, and to clients that connect while it lasts."));
		},
	};
}

function shown(notice) {
	const when = new Date(notice.startsAt) > new Date() ? ["begins ", ago(notice.startsAt)] : notice.endsAt ? ["ends ", ago(notice.endsAt)] : ["no end time"];
	const whom = [notice.namespace, notice.role].filter(Boolean).join(", ");
	return h("li", dot(IS[notice.severity] ?? "off", notice.severity), h("span", notice.message, small(whom ? `to ${whom} · ` : "", when, ` · by ${notice.by}`)), operator(() => button("End", () => endNotice(notice), { label: `End the notice: ${notice.message}` })));
}

const iso = (local) => new Date(local).toISOString();

export function addNotice() {
	const body = ({ message, severity, startsAt, forMinutes, namespace, role, reason }) => ({
		message, severity, reason,
		...(startsAt ? { startsAt: iso(startsAt) } : {}),
		...(forMinutes === "" ? {} : { endsAt: new Date((startsAt ? Date.parse(startsAt) : Date.now()) + forMinutes * 60_000).toISOString() }),
		...(namespace ? { namespace } : {}),
		...(role ? { role } : {}),
	});
	act({
		title: "New notice",
		text: "It is sent to all its recipients when it begins, and to those who connect while it lasts.",
		button: "Send notice",
		fields: [
			{ name: "message", label: "Message", type: "area", required: true, maxlength: 2000 },
			{ name: "severity", label: "Severity", value: "info", options: Object.keys(IS).map((one) => [one, one]) },
			{ name: "startsAt", label: "Begins", type: "datetime-local", help: "In your local time. Empty: now." },
			{ name: "forMinutes", label: "Duration in minutes", type: "number", min: 1, max: 100_000, help: "Empty: until it is ended." },
			{ name: "namespace", label: "Only in", options: choice(NAMESPACES, "every namespace") },
			{ name: "role", label: "Only for", options: choice(ROLES, "everybody") },
		],
		command: (given) => tool("notice", given.message, { "--severity": given.severity, "--starts": given.startsAt && iso(given.startsAt), "--for": given.forMinutes === "" ? "" : String(given.forMinutes * 60), "--namespace": given.namespace, "--role": given.role, "--reason": given.reason }),
		async run(given) {
			await api("POST", "notices", body(given));
			return Date.parse(given.startsAt) > Date.now() ? "The notice will be sent." : "The notice was sent.";
		},
	});
}

function endNotice(notice) {
	const path = `notices/${part(notice.id)}`;
	act({
		title: "End this notice",
		text: notice.message,
		button: "End notice",
		command: ({ reason }) => tool("notice", { "--end": notice.id, "--reason": reason }),
		async run({ reason }) {
			await api("DELETE", path + query({ reason }));
			return "The notice has ended.";
		},
	});
}
