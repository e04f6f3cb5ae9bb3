// @ts-check
// Settings: this node's settings and where each value comes from; log levels of all nodes.
import { api } from "../api.js";
import { curl } from "../commands.js";
import { act } from "../dialog.js";
import { h, put } from "../dom.js";
import { ago } from "../format.js";
import { live } from "../live.js";
import { operator } from "../me.js";
import { button, filters, heading, missing, section, small, tag } from "../parts.js";
import { table } from "../table.js";

const LEVELS = ["debug", "info", "warning", "error"];

export function show(root) {
	let asked = { find: "", changed: false };
	let all = [];
	let levels = [];
	let whole = false;
	const lost = h("div");
	const which = h("h2", "Settings");
	const settings = table({
		label: "Settings",
		key: (one) => one.name,
		empty: "No setting matches.",
		columns: [
			{ label: "Setting", cell: (one) => [h("code", one.name), small(one.help)] },
			{ label: "Value", cell: (one) => h("code", one.value || "(empty)") },
			{ label: "From", cell: (one) => h(one.origin === "default" ? "span.soft" : "b", one.origin) },
		],
	});
	const loggers = table({
		label: "Loggers",
		key: (one) => `${one.node} ${one.logger}`,
		empty: "No node has reported its levels.",
		columns: [
			{ label: "Logger", cell: (one) => h("code", one.logger || "(all)") },
			{ label: "Node", cell: (one) => one.node },
			{ label: "Level", cell: (one) => tag(one.level, one.level === "debug" ? "warn" : "") },
			{ label: "Until", cell: (one) => (one.until ? ago(one.until) : h("span.soft", "as configured")) },
			operator(() => ({ label: "", cell: (one) => button("Change", () => change(one), { label: `Change the level of ${one.logger || "all loggers"} on ${one.node}` }) })),
		].filter(Boolean),
	});
	const every = button("Show every logger", () => {
		whole = !whole;
		every.textContent = whole ? "Show only differences" : "Show every logger";
		drawLevels();
	});
	put(root,
		heading("Settings", "The settings of this node. To change one, use a flag, the environment or the file, and restart. Log levels are changed here.",
			h("a", { href: "/api/v1/openapi.json", target: "_blank", rel: "noopener" }, "API description")),
		lost,
		h("section",
			h("div.heading-row", h("h2", "Logging"), h("div.row", every, operator(() => button("Change level", () => change())))),
			loggers.element,
		),
		h("section", which, filters([
			{ name: "find", label: "Find", placeholder: "ping" },
			{ name: "changed", label: "Changed only", type: "check" },
		], (now) => {
			asked = now;
			draw();
		}, 100), settings.element),
	);

	function draw() {
		const words = asked.find.toLowerCase().split(/\s+/).filter(Boolean);
		settings.set(all.filter((one) => words.every((word) => `${one.name} ${one.help}`.toLowerCase().includes(word)) && !(asked.changed && one.origin === "default")));
	}

	/** Show each node's own level, and the loggers that have another one. */
	function drawLevels() {
		loggers.set(levels.filter((one) => whole || !one.logger || one.until || one.level !== one.base));
	}

	return live({
		config(body) {
			all = body.settings;
			which.textContent = `Settings of ${body.node}`;
			draw();
		},
		logging(body) {
			put(lost, missing(body.missing));
			levels = body.nodes.flatMap(({ node, loggers: its }) => {
				const base = its.find((one) => !one.logger)?.level;
				return its.map((one) => ({ ...one, node, base }));
			});
			drawLevels();
		},
	});
}

function change(one) {
	const body = ({ logger, level, forMinutes, node, reason }) => ({ logger, level, forSeconds: forMinutes * 60, reason, ...(node ? { node } : {}) });
	act({
		title: "Change a log level",
		text: "The configured level returns by itself after this time.",
		button: "Change",
		fields: [
			{ name: "logger", label: "Logger", value: one?.logger ?? "", maxlength: 100, help: "A logger's name as in log lines, or the beginning of one. Empty: all." },
			{ name: "level", label: "Level", value: "debug", options: LEVELS.map((name) => [name, name]) },
			{ name: "forMinutes", label: "For how many minutes", type: "number", value: 10, min: 1, max: 1440, required: true },
			{ name: "node", label: "Node", value: one?.node ?? "", help: "Empty: on all nodes." },
		],
		command: (given) => curl("PUT", "logging", body(given)),
		async run(given) {
			await api("PUT", "logging", body(given));
			return `${given.logger || "Every logger"} now logs at level ${given.level}.`;
		},
	});
}
