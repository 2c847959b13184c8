// Where a provider is allowed to answer otherwise, and why: by case, by profile. Without `instead` the case is not run there.
export const differences = {};
