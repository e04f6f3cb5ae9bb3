// What came of an action, told for a while in the corner. A refusal stands in the dialog.
import { h, icon } from "./dom.js";

const SHOWN_MS = 7000;

export function toast(text) {
	const box = document.getElementById("toasts");
	const close = h("button.icon", { type: "button", "aria-label": "Close", onclick: () => one.remove() }, icon("close"));
	const one = h("div.toast", { role: "status" }, h("p", text), close);
	box.append(one);
	setTimeout(() => one.remove(), SHOWN_MS);
}
