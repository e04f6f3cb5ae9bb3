// @ts-check
// Who is signed in, and what they may: buttons for what they may not are not there.

const SCOPES = ["viewer", "operator", "admin"];

export const me = {
	name: "",
	scope: "viewer",
	separateIds: false, // customers and staff are numbered apart
	may(scope) {
		return SCOPES.indexOf(this.scope) >= SCOPES.indexOf(scope);
	},
};

/** Return what is for operators only, or nothing. */
export const operator = (make) => (me.may("operator") ? make() : null);
