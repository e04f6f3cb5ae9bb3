// What came of an action, told for a while in the corner. A refusal stays until it is closed.
import { h, icon } from "./dom.js";

const SHOWN_MS = 7000;

export function toast(text, { bad = false } = {}) {
	const box = document.getElementById("toasts");
	const close = h("button.icon", { type: "button", "aria-label": "Close", onclick: () => one.remove() }, icon("close"));
	const one = h("div.toast", { role: bad ? "alert" : "status", data: { is: bad ? "bad" : "good" } }, h("p", text), close);
	box.append(one);
	if (!bad) setTimeout(() => one.remove(), SHOWN_MS);
}
