//! `sandbar image ...`

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// List images
    #[command(visible_alias = "list")]
    Ls,
    /// Pull an image from a registry; one that broke off is gone on with
    Pull(PullArgs),
    /// Make images of an OCI layout, of what `docker save` wrote, or of a root filesystem
    Import {
        /// A tar (plain, gzip or zstd), a folder with an OCI layout, or `-` for standard input
        source: PathBuf,
        /// What it is to be called
        #[arg(long)]
        name: Option<String>,
    },
    /// Make an image of Debian packages, by mmdebstrap on this machine
    Bootstrap(BootstrapArgs),
    /// Build an image: commands run once in a sandbox on another image
    Build {
        /// YAML or JSON with `name`, `base`, `run`, and perhaps `env`, `working_dir`, `files`; - for standard input
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// Another name than the file says
        #[arg(long)]
        name: Option<String>,
        /// Build anew, also when one was built from the very same
        #[arg(long)]
        no_cache: bool,
    },
    /// Write an image as an OCI layout in a tar, which `docker load` reads too
    Export {
        /// Name of the image
        name: String,
        /// The file; - for standard output
        file: PathBuf,
    },
    /// Take names of images away; what sandboxes need stays until they are gone
    #[command(visible_aliases = ["delete", "remove"])]
    Rm {
        /// Names, or ids
        #[arg(required = true)]
        names: Vec<String>,
        /// Also when a template is made from it
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub struct PullArgs {
    /// [HOST[:PORT]/]PATH[:TAG][@DIGEST]
    pub name: String,
    /// What it is to be called here
    #[arg(long = "as", value_name = "NAME")]
    pub local_name: Option<String>,
    /// For the registry
    #[arg(long, requires = "password_stdin")]
    pub username: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    pub password_stdin: bool,
    /// Ask the registry by HTTP without TLS; those on loopback addresses are in any case
    #[arg(long)]
    pub plain_http: bool,
}

#[derive(Debug, Args)]
pub struct BootstrapArgs {
    /// What the image is to be called
    pub name: String,
    /// The release, such as bookworm
    #[arg(long, default_value = "bookworm")]
    pub suite: String,
    /// Packages on top of the variant's, comma-separated
    #[arg(long, value_delimiter = ',', value_name = "PACKAGES")]
    pub include: Vec<String>,
    /// How small: minbase, apt, essential, important, ...
    #[arg(long, default_value = "minbase")]
    pub variant: String,
    /// Parts of the archive, such as main,contrib
    #[arg(long)]
    pub components: Option<String>,
    /// Where packages come from; as this machine's own apt says when absent
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
}
