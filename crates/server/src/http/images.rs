//! Images.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, Response, header},
};
use futures_util::stream;
use sandbar_api::{
    error::ErrorEnvelope,
    image::{ImageBuildRequest, ImageImportResponse, ImageListResponse, ImageProgress, ImagePullRequest},
    reply::{Envelope, Message},
};
use sandbar_core::{limits, roles::Permission};
use sandbar_node::image::Progress;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::Json,
    files::upload::Upload,
    params::Params,
    reply::{self, Result},
};
use crate::{
    app::{SharedApp, auth::Principal, images::Job},
    error::ApiError,
};

/// A line at least this often, so that nobody on the way takes the connection for dead.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);

/// `/api/v1/images`
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(list, delete)).routes(routes!(pull)).routes(routes!(import)).routes(routes!(build)).routes(routes!(export))
}

/// The images of this machine, for every team.
#[utoipa::path(get, path = "/api/v1/images", tag = "images", responses((status = 200, body = Envelope<ImageListResponse>)))]
async fn list(State(app): State<SharedApp>, who: Principal) -> Result<ImageListResponse> {
    who.require(Permission::TemplateRead)?;
    let images = app.images();
    reply::ok(ImageListResponse { count: images.len() as u64, images })
}

/// Take a name of an image away; its content stays as long as something was made from it. Only the operator may.
#[utoipa::path(delete, path = "/api/v1/images", tag = "images", params(("name" = String, Query, description = "a name, or the id of a content to take all its names"),
    ("force" = Option<bool>, Query, description = "also when a template is made from it")), responses(
    (status = 200, body = Envelope<Message>), (status = 403, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope),
))]
async fn delete(State(app): State<SharedApp>, who: Principal, params: Params) -> Result<Message> {
    app.delete_image(&who, name_of(&params)?, params.boolean("force")?.unwrap_or(false)).await?;
    reply::message("image removed")
}

/// Pull an image from a registry. The reply is lines of JSON, of which the last is `done` or `error`. What a broken pull
/// has downloaded is gone on with by the next. Only the operator may.
#[utoipa::path(post, path = "/api/v1/images/pull", tag = "images", request_body = ImagePullRequest, responses(
    (status = 200, content_type = "application/x-ndjson", body = ImageProgress), (status = 400, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope),
))]
async fn pull(State(app): State<SharedApp>, who: Principal, Json(request): Json<ImagePullRequest>) -> std::result::Result<Response<Body>, ApiError> {
    Ok(lines(app.pull_image(&who, request).await?))
}

/// Build an image: commands run once in a sandbox on another image. The reply is lines of JSON, of which the last is `done`
/// or `error`; a client that goes away ends the build. Only the operator may.
#[utoipa::path(post, path = "/api/v1/images/build", tag = "images", request_body = ImageBuildRequest, responses(
    (status = 200, content_type = "application/x-ndjson", body = ImageProgress), (status = 400, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope),
    (status = 404, description = "the base is not there", body = ErrorEnvelope),
))]
async fn build(
    State(app): State<SharedApp>,
    who: Principal,
    Json(request): Json<ImageBuildRequest, { limits::INPUT_BODY_MAX_BYTES }>,
) -> std::result::Result<Response<Body>, ApiError> {
    Ok(lines(app.build_image(&who, request).await?))
}

/// Make images of a tar (plain, gzip or zstd): an OCI layout, what `docker save` writes, or a root filesystem, which needs
/// a `name`. Only the operator may.
#[utoipa::path(post, path = "/api/v1/images/import", tag = "images", params(("name" = Option<String>, Query)),
    request_body(content = String, content_type = "application/x-tar"), responses(
    (status = 201, body = Envelope<ImageImportResponse>), (status = 400, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope),
    (status = 413, body = ErrorEnvelope), (status = 507, body = ErrorEnvelope),
))]
async fn import(State(app): State<SharedApp>, who: Principal, params: Params, headers: HeaderMap, body: Body) -> Result<ImageImportResponse> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limits::IMAGE_ARCHIVE_MAX_BYTES) {
        return Err(super::extract::too_large(limits::IMAGE_ARCHIVE_MAX_BYTES));
    }
    let upload = Upload::new(body, limits::IMAGE_ARCHIVE_MAX_BYTES);
    match app.import_images(&who, params.text("name"), Body::new(upload.clone())).await {
        Ok(images) => reply::created(ImageImportResponse { images }),
        Err(error) => {
            // The client's own failure explains ours; otherwise let it finish sending, so that it reads the answer.
            let cause = upload.failure();
            upload.discard().await;
            Err(cause.unwrap_or(error))
        }
    }
}

/// An image as a tar with an OCI layout, which `docker load` reads too. Only the operator may.
#[utoipa::path(get, path = "/api/v1/images/export", tag = "images", params(("name" = String, Query)), responses(
    (status = 200, content_type = "application/x-tar", body = String), (status = 400, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope),
    (status = 404, body = ErrorEnvelope),
))]
async fn export(State(app): State<SharedApp>, who: Principal, params: Params) -> std::result::Result<Response<Body>, ApiError> {
    let mut response = Response::new(app.export_image(&who, name_of(&params)?).await?);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"image.tar\""));
    Ok(response)
}

fn name_of(params: &Params) -> std::result::Result<&str, ApiError> {
    params.text("name").filter(|name| !name.is_empty()).ok_or_else(|| ApiError::bad_request("name: is required"))
}

/// A job as lines of JSON: what happens, then how it ended.
fn lines(job: Job) -> Response<Body> {
    let lines = stream::unfold(Some(job), |job| async move {
        let mut job = job?;
        let line = match tokio::time::timeout(HEARTBEAT_EVERY, job.progress.recv()).await {
            Err(_) => ImageProgress::Heartbeat,
            Ok(Some(progress)) => line_of(progress),
            Ok(None) => {
                let outcome = job.outcome.await.unwrap_or_else(|error| Err(ApiError::internal("making the image", &error)));
                let last = match outcome {
                    Ok(image) => ImageProgress::Done { image },
                    Err(error) => ImageProgress::Error { code: error.code().to_owned(), status: error.status(), message: error.message().to_owned() },
                };
                return Some((Ok::<_, Infallible>(text_of(&last)), None));
            }
        };
        Some((Ok(text_of(&line)), Some(job)))
    });
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response
}

fn text_of(line: &ImageProgress) -> Bytes {
    // Of our own types, which can always be written.
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    Bytes::from(text)
}

fn line_of(progress: Progress) -> ImageProgress {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    match progress {
        Progress::Layers { count, bytes } => ImageProgress::Layers { count: number(count), bytes },
        Progress::Downloaded { digest, bytes, total } => ImageProgress::Downloaded { digest, bytes, total },
        Progress::Unpacking { digest } => ImageProgress::Unpacking { digest },
        Progress::Ready { digest, was_there } => ImageProgress::Ready { digest, was_there },
        Progress::Step { step, of, command } => ImageProgress::Step { step: number(step), of: number(of), command },
        Progress::Output { is_error, data } => ImageProgress::Output { stream: if is_error { "stderr" } else { "stdout" }.to_owned(), data },
    }
}
