//! Collections, their items, and queries.

/// Collections of one team.
pub const COLLECTIONS_PER_TEAM_MAX: usize = 200;
/// Characters of a collection's slug, of a field's name, and of what a rule calls a role.
pub const COLLECTION_NAME_MAX_CHARS: usize = 63;
/// Fields of one collection.
pub const FIELDS_PER_COLLECTION_MAX: usize = 100;
/// Values that one field may be restricted to.
pub const FIELD_CHOICES_MAX: usize = 100;
/// Permission rules of one collection.
pub const RULES_PER_COLLECTION_MAX: usize = 100;
/// Bytes of the body of a request that makes or changes a collection.
pub const COLLECTION_BODY_MAX_BYTES: usize = 512 << 10;
/// Items of one collection.
pub const ITEMS_PER_COLLECTION_MAX: u64 = 100_000;
/// Bytes of one item's fields as JSON.
pub const ITEM_MAX_BYTES: usize = 256 << 10;
/// Bytes of all items of one team.
pub const ITEMS_PER_TEAM_MAX_BYTES: u64 = 512 << 20;
/// Characters of an item's id.
pub const ITEM_ID_MAX_CHARS: usize = 128;
/// Characters of a field of type `string`, at most and when the field says nothing.
pub const STRING_FIELD_MAX_CHARS: u32 = 4096;
/// How deep a field of type `json` may nest.
pub const JSON_FIELD_DEPTH_MAX: usize = 32;
/// Items that one request can make.
pub const ITEMS_PER_REQUEST_MAX: usize = 100;
/// Bytes of the body of a request that makes or changes items.
pub const ITEMS_BODY_MAX_BYTES: usize = 6 << 20;
/// Items that a change of a collection's fields looks at, and their bytes: with more, only changes that no item can break are
/// made.
pub const ITEMS_REVISED_MAX: u64 = 10_000;
pub const ITEMS_REVISED_MAX_BYTES: u64 = 16 << 20;
/// Items that are deleted at a time when their collection is.
pub const ITEMS_DELETED_AT_ONCE_MAX: usize = 2000;
/// Rows of one query, and when it says nothing.
pub const QUERY_LIMIT_MAX: u32 = 200;
pub const QUERY_LIMIT_DEFAULT: u32 = 50;
/// Rows that a query can skip: more than there can be.
pub const QUERY_OFFSET_MAX: u32 = 1_000_000;
/// Fields that a query sorts by.
pub const QUERY_SORT_MAX: usize = 5;
/// Bytes of the rows that a query finds.
pub const QUERY_ROWS_MAX_BYTES: usize = 6 << 20;
/// Queries of one team that wait for their turn.
pub const QUERIES_WAITING_MAX: usize = 200;
/// Milliseconds that a query may read.
pub const QUERY_MAX_MS: u64 = 2000;
/// How deep a filter may nest, and the conditions in it.
pub const FILTER_DEPTH_MAX: usize = 8;
pub const FILTER_CONDITIONS_MAX: usize = 100;
/// Values in one list of a filter.
pub const FILTER_LIST_MAX: usize = 100;
/// Bytes of the body of a request that holds a query.
pub const QUERY_BODY_MAX_BYTES: usize = 256 << 10;
/// Bytes of one text in a filter.
pub const FILTER_TEXT_MAX_BYTES: usize = 16 << 10;
/// Problems that one refusal names.
pub const VIOLATIONS_NAMED_MAX: usize = 20;
