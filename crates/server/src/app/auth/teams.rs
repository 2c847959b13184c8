//! Teams and their members. A team that one is not in does not exist for one.

use sandbar_core::{
    roles::{Permission, Role},
    validate::{self, Violation},
};
use sandbar_store::{Member, MemberRow, StoreError, Team};
use uuid::Uuid;

use super::{Auth, Principal, lacks, refused, token};
use crate::{app::sandboxes::violations, error::ApiError, http::time::now_ms};

/// What to change of a team. `None` = keep.
#[derive(Debug, Clone, Default)]
pub struct TeamChange {
    pub name: Option<String>,
    pub slug: Option<String>,
    pub home_region_id: Option<String>,
}

impl Auth {
    /// The teams one is in. A key knows its own only.
    pub async fn list_teams(&self, who: &Principal) -> Result<Vec<Team>, ApiError> {
        let teams = self.store.teams_of_user(&who.user_id).await.map_err(|e| refused("listing teams", &e))?;
        Ok(teams.into_iter().map(|(team, _)| team).filter(|team| who.key_id.is_none() || team.id == who.team_id).collect())
    }

    /// Makes a team that one owns.
    pub async fn create_team(&self, who: &Principal, name: &str, slug: Option<&str>, region: Option<&str>) -> Result<Team, ApiError> {
        who.require_login("make a team")?;
        let name = name.trim();
        let id = Uuid::new_v4().to_string();
        let slug = match slug.map(str::trim).filter(|slug| !slug.is_empty()) {
            Some(slug) => slug.to_ascii_lowercase(),
            // Unique by a piece of the id, so that a common name is no conflict.
            None => format!("{}-{}", slug_of(name), id.split('-').next().unwrap_or_default()),
        };
        check(Some(name), Some(&slug), region)?;
        let now = now_ms();
        let team = Team {
            id,
            name: name.to_owned(),
            slug,
            owner_id: Some(who.user_id.clone()),
            home_region_id: Some(region.filter(|region| !region.is_empty()).unwrap_or(token::REGION).to_owned()),
            created_at_ms: now,
            updated_at_ms: now,
        };
        self.store.team_insert(&team).await.map_err(|e| refused("making the team", &e))?;
        self.verified.forget_lesser(&who.user_id);
        Ok(team)
    }

    pub async fn get_team(&self, who: &Principal, id: &str) -> Result<Team, ApiError> {
        self.role_in(who, id).await?;
        self.store.team_get(id).await.map_err(|e| refused("reading the team", &e))?.ok_or_else(|| ApiError::not_found("team", id))
    }

    pub async fn update_team(&self, who: &Principal, id: &str, change: TeamChange) -> Result<Team, ApiError> {
        self.require_admin(who, id).await?;
        let name = change.name.as_deref().map(str::trim);
        let slug = change.slug.map(|slug| slug.trim().to_ascii_lowercase());
        check(name, slug.as_deref(), change.home_region_id.as_deref())?;
        self.store.team_update(id, name, slug.as_deref(), change.home_region_id.as_deref(), now_ms()).await.map_err(|e| refused("changing the team", &e))
    }

    /// Deletes a team that owns nothing any more. Only its owner may.
    pub async fn delete_team(&self, who: &Principal, id: &str) -> Result<(), ApiError> {
        who.require_login("delete a team")?;
        let team = self.get_team(who, id).await?;
        if team.owner_id.as_deref() != Some(&who.user_id) {
            return Err(lacks(Permission::TeamAdmin));
        }
        let done = self.store.team_delete(id).await;
        self.verified.forget_team(id);
        done.map_err(|e| refused("deleting the team", &e))
    }

    /// Hands a team to another member. Only its owner may.
    pub async fn transfer_team(&self, who: &Principal, id: &str, user_id: &str) -> Result<Team, ApiError> {
        who.require_login("hand a team over")?;
        let team = self.get_team(who, id).await?;
        if team.owner_id.as_deref() != Some(&who.user_id) {
            return Err(lacks(Permission::TeamAdmin));
        }
        let done = self.store.team_set_owner(id, user_id, now_ms()).await;
        self.verified.forget_user(user_id);
        done.map_err(|e| refused("handing the team over", &e))
    }

    pub async fn list_members(&self, who: &Principal, id: &str, query: Option<&str>) -> Result<Vec<MemberRow>, ApiError> {
        self.role_in(who, id).await?;
        self.store.members_list(id, query).await.map_err(|e| refused("listing members", &e))
    }

    /// Adds a user who has an account.
    pub async fn add_member(&self, who: &Principal, id: &str, email: &str, role: &str) -> Result<MemberRow, ApiError> {
        self.require_admin(who, id).await?;
        let role = parse_role(role)?;
        let user = self.store.user_find_by_email(email.trim()).await.map_err(|e| refused("reading the user", &e))?;
        let user = user.ok_or_else(|| ApiError::not_found("user", email.trim()))?;
        let member = Member { id: Uuid::new_v4().to_string(), team_id: id.to_owned(), user_id: user.id.clone(), role, joined_at_ms: now_ms() };
        let done = self.store.member_insert(&member).await;
        self.verified.forget_lesser(&user.id);
        done.map_err(|e| refused("adding the member", &e))
    }

    pub async fn set_role(&self, who: &Principal, id: &str, user_id: &str, role: &str) -> Result<(), ApiError> {
        self.require_admin(who, id).await?;
        let done = self.store.member_set_role(id, user_id, parse_role(role)?).await;
        self.verified.forget_user(user_id);
        done.map_err(|e| owner_stays(&e))
    }

    /// Removes a member, who may also leave by themselves.
    pub async fn remove_member(&self, who: &Principal, id: &str, user_id: &str) -> Result<(), ApiError> {
        let leaves = who.key_id.is_none() && who.user_id == user_id;
        if leaves {
            self.role_in(who, id).await?;
        } else {
            self.require_admin(who, id).await?;
        }
        let done = self.store.member_delete(id, user_id).await;
        self.verified.forget_user(user_id);
        done.map_err(|e| owner_stays(&e))
    }

    async fn require_admin(&self, who: &Principal, team_id: &str) -> Result<(), ApiError> {
        match self.role_in(who, team_id).await? {
            Role::Admin => Ok(()),
            Role::Builder | Role::Developer | Role::Viewer => Err(lacks(Permission::TeamAdmin)),
        }
    }

    /// One's role in a team; 404 when one is not in it. A key has its own roles, and only in its own team.
    async fn role_in(&self, who: &Principal, team_id: &str) -> Result<Role, ApiError> {
        let role = if who.key_id.is_some() {
            if who.team_id == team_id { who.roles.iter().max().copied() } else { None }
        } else {
            let member = self.store.member_find(team_id, &who.user_id).await.map_err(|e| refused("reading the team", &e))?;
            member.map(|member| member.role)
        };
        role.ok_or_else(|| ApiError::not_found("team", team_id))
    }
}

fn owner_stays(error: &StoreError) -> ApiError {
    match error {
        StoreError::InUse { .. } => ApiError::bad_request("the owner of a team stays its admin; hand the team over first"),
        other => refused("changing the member", other),
    }
}

fn parse_role(text: &str) -> Result<Role, ApiError> {
    text.trim().to_ascii_lowercase().parse().map_err(|error: sandbar_core::roles::UnknownRole| ApiError::bad_request(format!("role: {error}")))
}

fn check(name: Option<&str>, slug: Option<&str>, region: Option<&str>) -> Result<(), ApiError> {
    let mut wrong = name.map(|name| validate::name(name, "name")).unwrap_or_default();
    if slug.is_some_and(|slug| !validate::is_label(slug)) {
        wrong.push(Violation::new("slug", "must be letters, digits and inner hyphens, at most 63"));
    }
    if region.is_some_and(|region| !region.is_empty() && !validate::is_label(region)) {
        wrong.push(Violation::new("home_region_id", "must be letters, digits and inner hyphens, at most 63"));
    }
    if wrong.is_empty() { Ok(()) } else { Err(violations(wrong)) }
}

fn slug_of(name: &str) -> String {
    let mut slug = String::new();
    for c in name.chars().take(40) {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let slug = slug.trim_matches('-');
    if slug.is_empty() { "team".to_owned() } else { slug.to_owned() }
}
