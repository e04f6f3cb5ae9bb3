// The colours somebody chose, before the first paint; a classic script in the head for that reason.
// "" is what the system says. theme.next() goes on to the next choice.
const theme = {
	names: { "": "System", light: "Light", dark: "Dark" },
	get now() {
		try {
			const kept = localStorage.getItem("theme");
			return kept in this.names ? kept : "";
		} catch {
			return ""; // storage is refused
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
