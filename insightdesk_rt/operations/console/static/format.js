// @ts-check
// Numbers and times as text for people. Times like "3 min ago" update by themselves.
import { h } from "./dom.js";

const whole = new Intl.NumberFormat("en");
const fine = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const NONE = "–";

export const num = (value) => (value === null || value === undefined ? NONE : whole.format(value));
export const rate = (value) => (value === null || value === undefined ? NONE : value >= 100 ? whole.format(Math.round(value)) : fine.format(value));
export const ms = (value) => (value === null || value === undefined ? NONE : value >= 1000 ? `${fine.format(value / 1000)} s` : `${value >= 100 ? whole.format(Math.round(value)) : fine.format(value)} ms`);

export function bytes(value) {
	if (value === null || value === undefined) return NONE;
	for (const unit of ["B", "KB", "MB"]) {
		if (value < 1000) return `${value >= 100 || unit === "B" ? Math.round(value) : fine.format(value)} ${unit}`;
		value /= 1000;
	}
	return `${fine.format(value)} GB`;
}

/** Seconds as "45 s", "12 min", "3 h 20 min", "4 d 2 h". */
export function duration(seconds) {
	const s = Math.max(0, Math.round(seconds));
	if (s < 60) return `${s} s`;
	if (s < 3600) return `${Math.floor(s / 60)} min`;
	if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
	return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

export const clock = (date) => new Date(date).toLocaleTimeString("en-GB");
const stamp = (date) => `${new Date(date).toLocaleDateString("en-CA")} ${clock(date)}`;

function relative(date) {
	const seconds = (Date.now() - date) / 1000;
	return seconds < 0 ? `in ${duration(-seconds)}` : seconds < 2 ? "now" : `${duration(seconds)} ago`;
}

/** How long ago an ISO time was, or how far in the future it is; "–" for none. */
export function ago(iso, none = NONE) {
	if (!iso) return none;
	return h("time", { datetime: iso, title: stamp(iso), data: { ago: "" } }, relative(new Date(iso)));
}

/** A moment in local time, with the date if it was not today. */
export function at(iso, none = NONE) {
	if (!iso) return none;
	const today = new Date(iso).toDateString() === new Date().toDateString();
	return h("time", { datetime: iso, title: stamp(iso) }, today ? clock(iso) : stamp(iso));
}

setInterval(() => {
	for (const time of /** @type {NodeListOf<HTMLTimeElement>} */ (document.querySelectorAll("time[data-ago]"))) {
		const text = relative(new Date(time.dateTime));
		if (time.textContent !== text) time.textContent = text;
	}
}, 1000);
