//! `sandbar collection ...`

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Shown with `create`.
const EXAMPLES: &str = "\
Types are string, text, integer, number, boolean, datetime and json. Nobody but admins may do anything
with items before a rule allows it; roles are public, authenticated, viewer, developer, builder and
service:NAME, actions are read, create, update, delete and *.

Examples:
  sandbar collection create posts --field title:string:required --field body:text --allow public:read
  sandbar collection create notes --field text:text --owner-scoped --allow 'authenticated:*'
  sandbar collection create posts --file posts.yaml      # fields, permissions with filters, ...";

#[derive(Debug, Subcommand)]
pub enum CollectionCommand {
    /// Make a collection
    #[command(after_help = EXAMPLES)]
    Create {
        /// What it is called in paths: lower-case letters, digits, '-' and '_'
        slug: String,
        #[command(flatten)]
        what: CollectionArgs,
    },
    /// List collections
    #[command(visible_alias = "list")]
    Ls,
    /// Show one collection
    Get {
        /// Its slug
        slug: String,
    },
    /// Change a collection: what is given replaces what there is
    Update {
        /// Its slug
        slug: String,
        #[command(flatten)]
        what: CollectionArgs,
    },
    /// Delete collections
    #[command(visible_aliases = ["delete", "remove"])]
    Rm {
        /// Their slugs
        #[arg(required = true)]
        slugs: Vec<String>,
        /// Also with items in them, which are lost
        #[arg(long)]
        force: bool,
    },
}

/// What a collection is.
#[derive(Debug, Args)]
pub struct CollectionArgs {
    /// A YAML or JSON file with name, description, fields, permissions, ownerScoped; - for standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// A name for people
    #[arg(long)]
    pub name: Option<String>,
    #[arg(long)]
    pub description: Option<String>,
    /// A field of its items, such as title:string:required; may be given several times
    #[arg(long = "field", value_name = "NAME:TYPE[:required][:unique]", conflicts_with = "file")]
    pub fields: Vec<String>,
    /// A rule, such as public:read; may be given several times
    #[arg(long = "allow", value_name = "ROLE:ACTION")]
    pub allow: Vec<String>,
    /// Items know who made them
    #[arg(long)]
    pub owner_scoped: bool,
}
