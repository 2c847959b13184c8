//! Teams and their members.

use rusqlite::{Connection, OptionalExtension, Row};
use sandbar_core::{
    limits,
    roles::{Permission, Role},
};

use crate::{Store, StoreError, error::taken};

/// Who owns sandboxes, templates and keys.
#[derive(Debug, Clone, PartialEq)]
pub struct Team {
    /// A UUID, as clients parse it.
    pub id: String,
    pub name: String,
    pub slug: String,
    pub owner_id: Option<String>,
    pub home_region_id: Option<String>,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
}

/// A user in a team.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    pub id: String,
    pub team_id: String,
    pub user_id: String,
    pub role: Role,
    pub joined_at_ms: i64,
}

/// A member with what is shown of the user.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberRow {
    pub member: Member,
    pub email: String,
    pub name: String,
    pub avatar_url: Option<String>,
}

const COLUMNS: &str = "team.id, team.name, team.slug, team.owner_id, team.home_region_id, team.created_at_ms, team.updated_at_ms";
const MEMBER_COLUMNS: &str = "m.id, m.team_id, m.user_id, m.role, m.joined_at_ms, u.email, u.name, u.avatar_url";

impl Store {
    /// Stores a new team, whose owner becomes its first admin. A user may own a limited number of teams.
    pub async fn team_insert(&self, team: &Team) -> Result<(), StoreError> {
        let team = team.clone();
        self.engine
            .write("insert a team", move |c| {
                let owned: usize = c.prepare_cached("SELECT count(*) FROM team WHERE owner_id = ?1")?.query_row([&team.owner_id], |row| row.get(0))?;
                if owned >= limits::TEAMS_PER_USER_MAX {
                    return Err(StoreError::TooMany { what: "teams of this user", max: limits::TEAMS_PER_USER_MAX });
                }
                insert(c, &team, team.created_at_ms)
            })
            .await
    }

    pub async fn team_get(&self, id: &str) -> Result<Option<Team>, StoreError> {
        let id = id.to_owned();
        self.engine.read("read a team", move |c| find(c, &id)).await
    }

    /// The only team that there is.
    pub async fn team_only(&self) -> Result<Option<String>, StoreError> {
        self.engine
            .read("read the only team", |c| {
                let ids: Vec<String> = c.prepare_cached("SELECT id FROM team LIMIT 2")?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
                Ok(<[String; 1]>::try_from(ids).ok().map(|[id]| id))
            })
            .await
    }

    /// The teams that a user is in, oldest membership first, each with the user's role.
    pub async fn teams_of_user(&self, user_id: &str) -> Result<Vec<(Team, Role)>, StoreError> {
        let user_id = user_id.to_owned();
        self.engine
            .read("list teams", move |c| {
                let sql =
                    format!("SELECT {COLUMNS}, m.role FROM team_member m JOIN team ON team.id = m.team_id WHERE m.user_id = ?1 ORDER BY m.joined_at_ms, m.id");
                let mut statement = c.prepare_cached(&sql)?;
                let rows = statement.query_map([user_id], |row| Ok((team(row)?, row.get::<_, String>(7)?)))?;
                rows.map(|row| {
                    let (team, role) = row?;
                    Ok((team, role.parse().map_err(|e| StoreError::corrupt("role", &e))?))
                })
                .collect()
            })
            .await
    }

    /// Changes a team. `None` = keep.
    pub async fn team_update(&self, id: &str, name: Option<&str>, slug: Option<&str>, home_region_id: Option<&str>, now_ms: i64) -> Result<Team, StoreError> {
        let (id, name, slug, region) = (id.to_owned(), name.map(str::to_owned), slug.map(str::to_owned), home_region_id.map(str::to_owned));
        self.engine
            .write("update a team", move |c| {
                let sql = "UPDATE team SET name = coalesce(?2, name), slug = coalesce(?3, slug), home_region_id = coalesce(?4, home_region_id), updated_at_ms = ?5 WHERE id = ?1";
                c.prepare_cached(sql)?.execute((&id, name, slug, region, now_ms)).map_err(taken("a team with this slug"))?;
                find(c, &id)?.ok_or(StoreError::NotFound { what: "team", id })
            })
            .await
    }

    /// Gives a team another owner, who must be a member and becomes an admin.
    pub async fn team_set_owner(&self, id: &str, user_id: &str, now_ms: i64) -> Result<Team, StoreError> {
        let (id, user_id) = (id.to_owned(), user_id.to_owned());
        self.engine
            .write("transfer a team", move |c| {
                let changed = c.prepare_cached("UPDATE team_member SET role = 'admin' WHERE team_id = ?1 AND user_id = ?2")?.execute((&id, &user_id))?;
                if changed == 0 {
                    return Err(StoreError::NotFound { what: "member", id: user_id });
                }
                c.prepare_cached("UPDATE team SET owner_id = ?2, updated_at_ms = ?3 WHERE id = ?1")?.execute((&id, user_id, now_ms))?;
                find(c, &id)?.ok_or(StoreError::NotFound { what: "team", id })
            })
            .await
    }

    /// Deletes a team with its members, keys and quotas. Refused while it owns sandboxes, templates, snapshots, volumes or items.
    pub async fn team_delete(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.engine
            .write("delete a team", move |c| {
                let count = |sql: &str| -> Result<u64, StoreError> { Ok(c.prepare_cached(sql)?.query_row([&id], |row| row.get(0))?) };
                let by: Vec<_> = [
                    ("sandboxes", count("SELECT count(*) FROM sandbox WHERE team_id = ?1")?),
                    ("templates", count("SELECT count(*) FROM template WHERE team_id = ?1")?),
                    ("snapshots", count("SELECT count(*) FROM snapshot WHERE team_id = ?1")?),
                    ("volumes", count("SELECT count(*) FROM volume WHERE team_id = ?1")?),
                    ("items", count("SELECT ifnull(sum(items), 0) FROM collection WHERE team_id = ?1")?),
                    ("functions", count("SELECT count(*) FROM function WHERE team_id = ?1 AND deleted_at_ms IS NULL")?),
                    ("scripts", count("SELECT count(*) FROM script WHERE team_id = ?1")?),
                ]
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .collect();
                if !by.is_empty() {
                    return Err(StoreError::InUse { what: "team", by });
                }
                // Labels hold the team's digest, so nobody gets those of its deleted functions.
                c.prepare_cached("DELETE FROM function WHERE team_id = ?1")?.execute([&id])?;
                let changed = c.prepare_cached("DELETE FROM team WHERE id = ?1")?.execute([&id])?;
                if changed == 0 { Err(StoreError::NotFound { what: "team", id }) } else { Ok(()) }
            })
            .await
    }

    /// A user's membership of a team.
    pub async fn member_find(&self, team_id: &str, user_id: &str) -> Result<Option<Member>, StoreError> {
        let (team_id, user_id) = (team_id.to_owned(), user_id.to_owned());
        self.engine.read("read a member", move |c| Ok(member_row(c, &team_id, &user_id)?.map(|row| row.member))).await
    }

    /// The members of a team in the order they joined; with a text, those whose name or email holds it.
    pub async fn members_list(&self, team_id: &str, query: Option<&str>) -> Result<Vec<MemberRow>, StoreError> {
        let (team_id, query) = (team_id.to_owned(), query.map(str::to_owned));
        self.engine
            .read("list members", move |c| {
                let sql = format!("SELECT {MEMBER_COLUMNS} FROM team_member m JOIN user u ON u.id = m.user_id WHERE m.team_id = ?1 AND (?2 IS NULL OR instr(lower(u.email), lower(?2)) OR instr(lower(u.name), lower(?2))) ORDER BY m.joined_at_ms, m.id LIMIT ?3");
                let mut statement = c.prepare_cached(&sql)?;
                let rows = statement.query_map((team_id, query, limits::MEMBERS_PER_TEAM_MAX), |row| Ok(member(row)))?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    /// Adds a user to a team.
    pub async fn member_insert(&self, new: &Member) -> Result<MemberRow, StoreError> {
        let new = new.clone();
        self.engine
            .write("add a member", move |c| {
                let count: usize = c.prepare_cached("SELECT count(*) FROM team_member WHERE team_id = ?1")?.query_row([&new.team_id], |row| row.get(0))?;
                if count >= limits::MEMBERS_PER_TEAM_MAX {
                    return Err(StoreError::TooMany { what: "members", max: limits::MEMBERS_PER_TEAM_MAX });
                }
                insert_member(c, &new)?;
                member_row(c, &new.team_id, &new.user_id)?.ok_or(StoreError::NotFound { what: "member", id: new.user_id })
            })
            .await
    }

    /// Gives a member another role. The owner stays an admin.
    pub async fn member_set_role(&self, team_id: &str, user_id: &str, role: Role) -> Result<(), StoreError> {
        let (team_id, user_id) = (team_id.to_owned(), user_id.to_owned());
        self.engine
            .write("update a member", move |c| {
                if role != Role::Admin {
                    not_the_owner(c, &team_id, &user_id)?;
                }
                let sql = "UPDATE team_member SET role = ?3 WHERE team_id = ?1 AND user_id = ?2";
                if c.prepare_cached(sql)?.execute((&team_id, &user_id, role.as_str()))? == 0 {
                    return Err(StoreError::NotFound { what: "member", id: user_id });
                }
                // Who may make none keeps none.
                if !role.permissions().has(Permission::SandboxWrite) {
                    c.prepare_cached("DELETE FROM preview WHERE team_id = ?1 AND user_id = ?2")?.execute((team_id, user_id))?;
                }
                Ok(())
            })
            .await
    }

    /// Removes a member, and the keys that they made for the team. The owner cannot be removed.
    pub async fn member_delete(&self, team_id: &str, user_id: &str) -> Result<(), StoreError> {
        let (team_id, user_id) = (team_id.to_owned(), user_id.to_owned());
        self.engine
            .write("remove a member", move |c| {
                not_the_owner(c, &team_id, &user_id)?;
                let changed = c.prepare_cached("DELETE FROM team_member WHERE team_id = ?1 AND user_id = ?2")?.execute((&team_id, &user_id))?;
                if changed == 0 {
                    return Err(StoreError::NotFound { what: "member", id: user_id });
                }
                c.prepare_cached("DELETE FROM ssh_key WHERE team_id = ?1 AND user_id = ?2")?.execute((&team_id, &user_id))?;
                c.prepare_cached("DELETE FROM preview WHERE team_id = ?1 AND user_id = ?2")?.execute((&team_id, &user_id))?;
                c.prepare_cached("DELETE FROM api_key WHERE team_id = ?1 AND created_by = ?2")?.execute((team_id, user_id))?;
                Ok(())
            })
            .await
    }
}

/// Stores a team and its owner's membership.
pub(crate) fn insert(c: &Connection, team: &Team, joined_at_ms: i64) -> Result<(), StoreError> {
    c.prepare_cached("INSERT INTO team (id, name, slug, owner_id, home_region_id, created_at_ms, updated_at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
        .execute((&team.id, &team.name, &team.slug, &team.owner_id, &team.home_region_id, team.created_at_ms, team.updated_at_ms))
        .map_err(taken("a team with this slug"))?;
    if let Some(owner_id) = &team.owner_id {
        // A member's id is a UUID of its own; the team's serves for its first, as no other row of the table has it.
        insert_member(c, &Member { id: team.id.clone(), team_id: team.id.clone(), user_id: owner_id.clone(), role: Role::Admin, joined_at_ms })?;
    }
    Ok(())
}

fn insert_member(c: &Connection, member: &Member) -> Result<(), StoreError> {
    c.prepare_cached("INSERT INTO team_member (id, team_id, user_id, role, joined_at_ms) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute((&member.id, &member.team_id, &member.user_id, member.role.as_str(), member.joined_at_ms))
        .map_err(taken("this member"))?;
    Ok(())
}

fn not_the_owner(c: &Connection, team_id: &str, user_id: &str) -> Result<(), StoreError> {
    let is_owner = c.prepare_cached("SELECT 1 FROM team WHERE id = ?1 AND owner_id = ?2")?.exists((team_id, user_id))?;
    if is_owner { Err(StoreError::InUse { what: "the owner of the team", by: vec![("teams", 1)] }) } else { Ok(()) }
}

fn find(c: &Connection, id: &str) -> Result<Option<Team>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM team WHERE id = ?1");
    Ok(c.prepare_cached(&sql)?.query_row([id], team).optional()?)
}

fn member_row(c: &Connection, team_id: &str, user_id: &str) -> Result<Option<MemberRow>, StoreError> {
    let sql = format!("SELECT {MEMBER_COLUMNS} FROM team_member m JOIN user u ON u.id = m.user_id WHERE m.team_id = ?1 AND m.user_id = ?2");
    c.prepare_cached(&sql)?.query_row((team_id, user_id), |row| Ok(member(row))).optional()?.transpose()
}

fn team(row: &Row<'_>) -> rusqlite::Result<Team> {
    Ok(Team {
        id: row.get(0)?,
        name: row.get(1)?,
        slug: row.get(2)?,
        owner_id: row.get(3)?,
        home_region_id: row.get(4)?,
        created_at_ms: row.get(5)?,
        updated_at_ms: row.get(6)?,
    })
}

fn member(row: &Row<'_>) -> Result<MemberRow, StoreError> {
    let role: String = row.get(3)?;
    let role = role.parse().map_err(|e| StoreError::corrupt("role", &e))?;
    Ok(MemberRow {
        member: Member { id: row.get(0)?, team_id: row.get(1)?, user_id: row.get(2)?, role, joined_at_ms: row.get(4)? },
        email: row.get(5)?,
        name: row.get(6)?,
        avatar_url: row.get(7)?,
    })
}
