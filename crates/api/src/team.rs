//! Teams and members.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A team. Its ids are UUIDs.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct Team {
    pub id: String,
    pub name: String,
    pub slug: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home_region_id: Option<String>,
    pub created_at: String,
    pub updated_at: String,
}

/// `GET /teams`.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct TeamListResponse {
    pub teams: Vec<Team>,
}

/// `POST /teams`.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct CreateTeamRequest {
    pub name: String,
    /// A DNS label; made of the name when absent.
    #[serde(default)]
    pub slug: Option<String>,
    #[serde(default)]
    pub home_region_id: Option<String>,
}

/// `PUT /teams/{id}`. Absent = keep.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub struct UpdateTeamRequest {
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub slug: Option<String>,
    #[serde(default)]
    pub home_region_id: Option<String>,
}

/// A user in a team.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct TeamMember {
    pub id: String,
    pub team_id: String,
    pub user_id: String,
    /// admin, builder, developer or viewer.
    pub role: String,
    pub joined_at: String,
    pub email: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
}

/// `GET /teams/{id}/members`.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct TeamMemberListResponse {
    pub members: Vec<TeamMember>,
}

/// `POST /teams/{id}/members`.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct AddTeamMemberRequest {
    /// Of a user who exists.
    pub email: String,
    pub role: String,
}

/// `PUT /teams/{id}/members/{user_id}`.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct UpdateTeamMemberRequest {
    pub role: String,
}

/// `PUT /teams/{id}/owner`.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct TransferTeamOwnerRequest {
    pub user_id: String,
}
