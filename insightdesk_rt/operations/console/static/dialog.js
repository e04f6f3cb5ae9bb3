// @ts-check
// The dialog of every action: what it does, how many it affects, the reason, and the shell command that does the same.
import { h, put } from "./dom.js";
import { toast } from "./toast.js";

const MAX_REASON = 500;
const SETTLED_MS = 300;

/**
 * @typedef {{name: string, label: string, type?: string, value?: any, options?: any[], help?: string, [attribute: string]: any}} Field
 * @typedef {any} Values of a form, by the names of its fields
 */

/**
 * Return a control with its label. `type` is also "check" or "area"; other keys become attributes.
 * @param {Field} field
 */
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

/**
 * Return a form's values by name: numbers for number fields, booleans for checkboxes.
 * @param {HTMLFormElement} form
 * @returns {Values}
 */
export function values(form) {
	/** @type {Record<string, any>} */
	const found = {};
	for (const { name, type, value, checked, valueAsNumber } of /** @type {Iterable<HTMLInputElement>} */ (form.elements)) {
		if (name) found[name] = type === "checkbox" ? checked : type === "number" ? (value === "" ? "" : valueAsNumber) : value.trim();
	}
	return found;
}

/**
 * Show the dialog of an action, and run it when the user confirms.
 *
 * title, text: what the action does. button: the word on the button; danger: it cannot be undone.
 * count(values): a promise of the sentence that says how many are affected. The action cannot run before it is there.
 * command(values): the shell command. run(values): a promise of the text to show when it is done.
 * `values` have `reason` besides the fields.
 *
 * @param {{title: string, text: any, fields?: Field[], button: string, danger?: boolean,
 *   count?: (values: Values) => Promise<any>, command: (values: Values) => string, run: (values: Values) => Promise<string>}} action
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
		const text = await /** @type {NonNullable<typeof count>} */ (count)(now).catch((refused) => {
			asked = "";
			return refused.message;
		});
		if (mine !== turn) return;
		known = asked !== "";
		go.disabled = !known;
		put(counted, text);
	}

	async function submitted(event) {
		event.preventDefault();
		if (!form.reportValidity() || !known) return;
		const given = values(form);
		if (!given.reason) {
			problem.textContent = "Give a reason.";
			return form.elements.reason.focus();
		}
		go.disabled = true;
		problem.textContent = "";
		try {
			const text = await run(given);
			dialog.close();
			toast(text);
		} catch (error) {
			const refused = /** @type {import("./api.js").Refused} */ (error);
			problem.textContent = refused.text ?? refused.message;
			/** @type {any} */ (form.elements)[refused.field ?? ""]?.focus();
			go.disabled = false;
		}
	}

	async function copied() {
		try {
			await navigator.clipboard.writeText(shell.textContent);
			copy.textContent = "Copied";
		} catch {
			getSelection()?.selectAllChildren(shell); // over plain HTTP a page must not write to the clipboard
			copy.textContent = "Selected";
		}
	}

	changed();
	document.body.append(dialog);
	dialog.showModal();
	/** @type {HTMLElement} */ (form.querySelector("input, select, textarea")).focus();
	if (count) look();
}
