//! `sandbar du` and `sandbar gc`.

use serde_json::{Value, json};

use crate::{
    cli::{Global, Output},
    client::Client,
    output::{self, cell},
};

pub async fn du(global: &Global, all: bool) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    let storage = client.get("/api/v1/storage").await?;
    if global.output == Output::Json {
        output::json(&storage);
        return Ok(0);
    }
    let rows = |list: &Value, columns: &dyn Fn(&Value) -> Vec<String>| list.as_array().into_iter().flatten().map(columns).collect::<Vec<_>>();
    output::table(
        &["KIND", "ITEMS", "SIZE"],
        &rows(&storage["parts"], &|part| vec![cell(&part["kind"]), cell(&part["items"]), output::size_cell(&part["bytes"])]),
    );
    let item = |item: &Value| vec![cell(&item["kind"]), cell(&item["id"]), output::size_cell(&item["bytes"])];
    if all {
        output::line("");
        output::table(&["LARGEST", "ID", "SIZE"], &rows(&storage["largest"], &item));
    }
    let reclaimable = storage["reclaimable"].as_array().map_or(0, Vec::len);
    if reclaimable > 0 {
        output::line("\n`sandbar gc` would remove:");
        output::table(&["KIND", "ID", "SIZE"], &rows(&storage["reclaimable"], &item));
    }
    output::line(&format!("\n{} of {} are free on the disk", output::size_cell(&storage["disk_free_bytes"]), output::size_cell(&storage["disk_total_bytes"])));
    Ok(0)
}

pub async fn gc(global: &Global, images: bool) -> anyhow::Result<u8> {
    let client = Client::from_global(global)?;
    let done = client.post("/api/v1/storage/gc", &json!({ "unused_images": images })).await?;
    if global.output == Output::Json {
        output::json(&done);
        return Ok(0);
    }
    let freed = done["disk_free_after_bytes"].as_u64().unwrap_or(0).saturating_sub(done["disk_free_before_bytes"].as_u64().unwrap_or(0));
    output::line(&format!(
        "removed {} images, {} layers of sandboxes, {} trees of volumes and {} of downloads; {} more of the disk are free",
        cell(&done["images"]),
        cell(&done["layers"]),
        cell(&done["volumes"]),
        output::size(done["downloads_bytes"].as_u64().unwrap_or(0)),
        output::size(freed),
    ));
    Ok(0)
}
