// @ts-check
// The result of an action, shown in the corner for a while. Errors are shown in the dialog.
import { h, icon } from "./dom.js";

const SHOWN_MS = 7000;

export function toast(text) {
	const box = /** @type {HTMLElement} */ (document.getElementById("toasts"));
	const close = h("button.icon", { type: "button", "aria-label": "Close", onclick: () => one.remove() }, icon("close"));
	const one = h("div.toast", { role: "status" }, h("p", text), close);
	box.append(one);
	setTimeout(() => one.remove(), SHOWN_MS);
}
