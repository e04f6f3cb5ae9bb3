// The one way to change something: what it is about, to how many it would be done, why, and the command that does the same.
import { h, put } from "./dom.js";
import { toast } from "./toast.js";

const MAX_REASON = 500;
const SETTLED_MS = 300;

/** Return a control with its label: {name, label, type, value, options, help, required, …attributes}. */
export function field({ name, label, type = "text", value = "", options, help, ...attributes }) {
	const given = { name, value, ...attributes };
	if (type === "check") {
		return h("label.check", h("input", { type: "checkbox", name, checked: Boolean(value) }), h("span", label, help && h("small", help)));
	}
	let input;
	if (options) {
		input = h("select", { name, ...attributes }, options.map(([key, text]) => h("option", { value: key }, text)));
		input.value = value;
	} else if (type === "area") input = h("textarea", { rows: 3, ...given });
	else input = h("input", { type, autocomplete: "off", spellcheck: "false", ...given });
	return h("label.field", h("span", label), input, help && h("small", help));
}

/** Return a form's values by name; numbers of number fields, booleans of checkboxes. */
export function values(form) {
	const found = {};
	for (const { name, type, value, checked, valueAsNumber } of form.elements) {
		if (name) found[name] = type === "checkbox" ? checked : type === "number" ? (value === "" ? "" : valueAsNumber) : value.trim();
	}
	return found;
}

/**
 * Ask for what an action needs, and do it.
 *
 * title, text: what it is. fields: of `field`. button: the word on the button; danger: it cannot be taken back.
 * count(values): a promise of the sentence that says to how many it would be done; nothing is done before it is known.
 * command(values): the same from a shell. run(values): a promise of what to say when it is done.
 * `values` have `reason` besides the fields.
 */
export function act({ title, text, fields = [], button, danger = false, count, command, run }) {
	const problem = h("p.problem", { role: "alert" });
	const counted = count ? h("p.count", { role: "status" }, h("span.skeleton", "counting")) : null;
	const shell = h("code");
	const go = h("button", { type: "submit", class: danger ? "go danger" : "go" }, button);
	const copy = h("button.small", { type: "button", onclick: copied }, "Copy");
	const form = h("form", { method: "dialog", oninput: changed, onsubmit: submitted },
		h("h2", { id: "dialog-title" }, title),
		text && h("p.soft", text),
		fields.map(field),
		field({ name: "reason", label: "Reason", type: "area", maxlength: MAX_REASON, required: true, rows: 2, help: "Kept in the audit log." }),
		counted,
		h("div.command", h("div.command-head", h("span", "The same from a shell"), copy), h("pre", { tabindex: 0, role: "region", "aria-label": "Command" }, shell)),
		problem,
		h("div.row.end", h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"), go),
	);
	const dialog = h("dialog", { "aria-labelledby": "dialog-title", onclose: () => dialog.remove() }, form);
	let timer = 0;
	let turn = 0;
	let known = !count;

	function changed() {
		shell.textContent = command(values(form));
		if (count) {
			clearTimeout(timer);
			timer = setTimeout(look, SETTLED_MS);
		}
	}

	let asked = "";
	async function look() {
		const now = values(form);
		const what = JSON.stringify({ ...now, reason: "" });
		if (what === asked) return;
		asked = what;
		const mine = ++turn;
		known = false;
		go.disabled = true;
		put(counted, h("span.skeleton", "counting"));
		const said = await count(now).catch((refused) => {
			asked = "";
			return refused.message;
		});
		if (mine !== turn) return;
		known = asked !== "";
		go.disabled = !known;
		put(counted, said);
	}

	async function submitted(event) {
		event.preventDefault();
		if (!form.reportValidity() || !known) return;
		const given = values(form);
		if (!given.reason) {
			problem.textContent = "Say why.";
			return form.elements.reason.focus();
		}
		go.disabled = true;
		problem.textContent = "";
		try {
			const said = await run(given);
			dialog.close();
			toast(said);
		} catch (refused) {
			problem.textContent = refused.text ?? refused.message;
			form.elements[refused.field]?.focus();
			go.disabled = false;
		}
	}

	async function copied() {
		try {
			await navigator.clipboard.writeText(shell.textContent);
			copy.textContent = "Copied";
		} catch {
			getSelection().selectAllChildren(shell); // over plain HTTP a page may not write there
			copy.textContent = "Selected";
		}
	}

	changed();
	document.body.append(dialog);
	dialog.showModal();
	form.querySelector("input, select, textarea").focus();
	if (count) look();
}
