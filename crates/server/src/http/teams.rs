//! Teams and members.

use axum::extract::{Path, State};
use sandbar_api::{
    error::ErrorEnvelope,
    reply::{Envelope, Message},
    team::{
        AddTeamMemberRequest, CreateTeamRequest, Team, TeamListResponse, TeamMember, TeamMemberListResponse, TransferTeamOwnerRequest, UpdateTeamMemberRequest,
        UpdateTeamRequest,
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::Json,
    params::Params,
    reply::{self, Result},
    time::rfc3339,
};
use crate::app::{
    SharedApp,
    auth::{Principal, TeamChange},
};

/// `/teams`.
pub fn router() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, update, delete))
        .routes(routes!(members, add_member))
        .routes(routes!(set_role, remove_member))
        .routes(routes!(transfer))
}

/// The teams one is in.
#[utoipa::path(get, path = "/teams", tag = "teams", responses((status = 200, body = Envelope<TeamListResponse>), (status = 401, body = ErrorEnvelope)))]
async fn list(State(app): State<SharedApp>, who: Principal) -> Result<TeamListResponse> {
    let teams = app.auth.list_teams(&who).await?;
    reply::ok(TeamListResponse { teams: teams.into_iter().map(rendered).collect() })
}

/// Make a team that one owns.
#[utoipa::path(post, path = "/teams", tag = "teams", request_body = CreateTeamRequest, responses(
    (status = 201, body = Envelope<Team>), (status = 400, body = ErrorEnvelope), (status = 401, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope),
))]
async fn create(State(app): State<SharedApp>, who: Principal, Json(request): Json<CreateTeamRequest>) -> Result<Team> {
    let team = app.auth.create_team(&who, &request.name, request.slug.as_deref(), request.home_region_id.as_deref()).await?;
    reply::created(rendered(team))
}

/// A team one is in.
#[utoipa::path(get, path = "/teams/{id}", tag = "teams", params(("id" = String, Path)), responses((status = 200, body = Envelope<Team>), (status = 404, body = ErrorEnvelope)))]
async fn get(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<Team> {
    let team = app.auth.get_team(&who, &id).await?;
    reply::ok(rendered(team))
}

/// Change a team.
#[utoipa::path(put, path = "/teams/{id}", tag = "teams", params(("id" = String, Path)), request_body = UpdateTeamRequest, responses(
    (status = 200, body = Envelope<Team>), (status = 400, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope),
))]
async fn update(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, Json(request): Json<UpdateTeamRequest>) -> Result<Team> {
    let UpdateTeamRequest { name, slug, home_region_id } = request;
    let team = app.auth.update_team(&who, &id, TeamChange { name, slug, home_region_id }).await?;
    reply::ok(rendered(team))
}

/// Delete a team that owns nothing any more.
#[utoipa::path(delete, path = "/teams/{id}", tag = "teams", params(("id" = String, Path)), responses(
    (status = 200, body = Envelope<Message>), (status = 403, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope),
))]
async fn delete(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>) -> Result<Message> {
    app.auth.delete_team(&who, &id).await?;
    app.reach.mailer.outbox.forget(&id).await;
    reply::message("team deleted")
}

/// The members of a team.
#[utoipa::path(get, path = "/teams/{id}/members", tag = "teams", params(
    ("id" = String, Path), ("query" = Option<String>, Query, description = "only those whose name or email holds this"),
), responses((status = 200, body = Envelope<TeamMemberListResponse>), (status = 404, body = ErrorEnvelope)))]
async fn members(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, params: Params) -> Result<TeamMemberListResponse> {
    let members = app.auth.list_members(&who, &id, params.text("query")).await?;
    reply::ok(TeamMemberListResponse { members: members.into_iter().map(rendered_member).collect() })
}

/// Add a user who has an account.
#[utoipa::path(post, path = "/teams/{id}/members", tag = "teams", params(("id" = String, Path)), request_body = AddTeamMemberRequest, responses(
    (status = 201, body = Envelope<TeamMember>), (status = 400, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope), (status = 409, body = ErrorEnvelope),
))]
async fn add_member(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, Json(request): Json<AddTeamMemberRequest>) -> Result<TeamMember> {
    let member = app.auth.add_member(&who, &id, &request.email, &request.role).await?;
    reply::created(rendered_member(member))
}

/// Give a member another role.
#[utoipa::path(put, path = "/teams/{id}/members/{user_id}", tag = "teams", params(("id" = String, Path), ("user_id" = String, Path)), request_body = UpdateTeamMemberRequest, responses(
    (status = 200, body = Envelope<Message>), (status = 400, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn set_role(
    State(app): State<SharedApp>,
    who: Principal,
    Path((id, user_id)): Path<(String, String)>,
    Json(request): Json<UpdateTeamMemberRequest>,
) -> Result<Message> {
    app.auth.set_role(&who, &id, &user_id, &request.role).await?;
    reply::message("role changed")
}

/// Remove a member, or leave. The keys that they made for the team end.
#[utoipa::path(delete, path = "/teams/{id}/members/{user_id}", tag = "teams", params(("id" = String, Path), ("user_id" = String, Path)), responses(
    (status = 200, body = Envelope<Message>), (status = 400, body = ErrorEnvelope), (status = 403, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn remove_member(State(app): State<SharedApp>, who: Principal, Path((id, user_id)): Path<(String, String)>) -> Result<Message> {
    app.auth.remove_member(&who, &id, &user_id).await?;
    reply::message("member removed")
}

/// Hand a team to another member.
#[utoipa::path(put, path = "/teams/{id}/owner", tag = "teams", params(("id" = String, Path)), request_body = TransferTeamOwnerRequest, responses(
    (status = 200, body = Envelope<Team>), (status = 403, body = ErrorEnvelope), (status = 404, body = ErrorEnvelope),
))]
async fn transfer(State(app): State<SharedApp>, who: Principal, Path(id): Path<String>, Json(request): Json<TransferTeamOwnerRequest>) -> Result<Team> {
    let team = app.auth.transfer_team(&who, &id, &request.user_id).await?;
    reply::ok(rendered(team))
}

fn rendered(team: sandbar_store::Team) -> Team {
    Team {
        id: team.id,
        name: team.name,
        slug: team.slug,
        owner_id: team.owner_id,
        home_region_id: team.home_region_id,
        created_at: rfc3339(team.created_at_ms),
        updated_at: rfc3339(team.updated_at_ms),
    }
}

fn rendered_member(row: sandbar_store::MemberRow) -> TeamMember {
    TeamMember {
        id: row.member.id,
        team_id: row.member.team_id,
        user_id: row.member.user_id,
        role: row.member.role.to_string(),
        joined_at: rfc3339(row.member.joined_at_ms),
        email: row.email,
        name: row.name,
        avatar_url: row.avatar_url.filter(|url| !url.is_empty()),
    }
}
