// @ts-check
// Who is signed in, and their permissions. Buttons for actions that are not allowed are not shown.

const SCOPES = ["viewer", "operator", "admin"];

export const me = {
	name: "",
	scope: "viewer",
	separateIds: false, // customers and staff have separate ids
	may(scope) {
		return SCOPES.indexOf(this.scope) >= SCOPES.indexOf(scope);
	},
};

/** Return the element that `make` makes for operators, or null without that scope. */
export const operator = (make) => (me.may("operator") ? make() : null);
