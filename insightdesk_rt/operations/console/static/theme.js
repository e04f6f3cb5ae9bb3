// @ts-check
// Applies the chosen colours before the first paint; therefore a classic script in the head.
// "" follows the system. theme.next() switches to the next choice.
const theme = {
	/** @type {Record<string, string>} */
	names: { "": "System", light: "Light", dark: "Dark" },
	get now() {
		try {
			const kept = localStorage.getItem("theme");
			return kept !== null && kept in this.names ? kept : "";
		} catch {
			return ""; // the browser forbids storage
		}
	},
	apply() {
		if (this.now) document.documentElement.dataset.theme = this.now;
		else delete document.documentElement.dataset.theme;
	},
	next() {
		const all = Object.keys(this.names);
		try {
			localStorage.setItem("theme", all[(all.indexOf(this.now) + 1) % all.length]);
		} catch {
			return;
		}
		this.apply();
	},
};
theme.apply();
