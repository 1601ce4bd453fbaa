//! Who the client is: tokens, guests, and the time when a token runs out.

use std::sync::Arc;

use super::gate::First;
use super::{EXPIRY_NOTICE_S, Mind, Session, TOKENS_PER_SECOND, now_unix};
use crate::actors::letters::{Open, Return, What};
use crate::chat::names::UserName;
use crate::chat::permission::Identity;
use crate::chat::trace::Wire;
use crate::protocols::codes::{Goodbye, Problem};
use crate::protocols::native::{Reference, RequestNumber};
use crate::protocols::native_frames as frames;

/// Who a client says it is.
#[derive(Debug, Default)]
pub(super) struct Claim {
    /// A token.
    pub(super) token: Option<String>,
    /// The name of a guest.
    pub(super) user: Option<String>,
    /// The session that it goes on with.
    pub(super) session: Option<Box<str>>,
}

/// A guest of this name, or of one that is made up.
pub fn guest_named(user: Option<&str>) -> Result<Identity, Problem> {
    let name = match user {
        Some(name) => UserName::new(name).map_err(|bad| Problem::new(400, "bad-name", bad.0))?,
        None => UserName::new(&format!("guest-{:06x}", rand::random::<u32>() & 0xff_ffff))
            .expect("the name is made to the rules"),
    };
    Ok(Identity::guest(name))
}

impl Session {
    pub(super) fn identity(&self) -> Option<&Arc<Identity>> {
        match &self.mind {
            Mind::Native(native) => native.identity.as_ref(),
            Mind::Raw { .. } => None,
        }
    }

    /// Who the client is, without room grants that have run out.
    pub(super) fn identified(&mut self) -> Result<Arc<Identity>, Problem> {
        let Some(identity) = self.identity().cloned() else { return Err(Problem::who_are_you()) };
        let Some(fresh) = identity.without_expired_grants(now_unix()) else { return Ok(identity) };
        let fresh = Arc::new(fresh);
        if let Mind::Native(native) = &mut self.mind {
            native.identity = Some(fresh.clone());
        }
        Ok(fresh)
    }

    /// Returns whether the client is now who it says, or will be if a backend lets it in.
    pub(super) fn hello(&mut self, reference: &Reference, claim: Claim) -> bool {
        let Claim { token, user, session } = claim;
        let before = self.identity().cloned();
        let identity = match (token, &before) {
            (Some(token), _) => self.verify(&token),
            (None, Some(known)) => Ok(Identity::clone(known)),
            (None, None) => self.guest(user.as_deref()),
        };
        let identity = match identity.and_then(|identity| self.keeps_user(identity)) {
            Ok(identity) => identity,
            Err(problem) => {
                let goodbye = match problem.why {
                    "expired" => Goodbye::EXPIRED,
                    "bad-name" => Goodbye::BAD_NAME,
                    _ => Goodbye::BAD_TOKEN,
                };
                let is_pace = problem.why == "rate";
                self.refuse(reference.clone(), problem);
                // Who was somebody before stays who he was; else there is nobody to go on with.
                if before.is_none() && !is_pace {
                    self.house.core.borrow_mut().close(&self.connection, goodbye);
                }
                return false;
            }
        };
        let back = |session| Box::new(Return { session, moved: Vec::new(), rest: Vec::new() });
        let (i, back) = (reference.i, session.map(back));
        match self.question_of_newcomer(&identity) {
            Some(question) => self.hold(First::Hello { i, identity: Box::new(identity), back }, question),
            None => self.take_identity(i, identity, false, back),
        }
        true
    }

    /// A session keeps its user: the others know by his name who speaks.
    pub(super) fn keeps_user(&self, identity: Identity) -> Result<Identity, Problem> {
        if self.identity().is_none_or(|known| known.user == identity.user) {
            return Ok(identity);
        }
        Err(Problem::new(403, "not-allowed", "this session belongs to another user; open a new connection"))
    }

    /// From now on the client is this. `silent`: no `welcome` if it was somebody before.
    pub(super) fn take_identity(
        &mut self,
        i: RequestNumber,
        mut identity: Identity,
        silent: bool,
        session: Option<Box<Return>>,
    ) {
        let again = match self.identity() {
            Some(known) => {
                identity.granted.clone_from(&known.granted);
                true
            }
            None => false,
        };
        let identity = Arc::new(identity);
        let mut wire = Wire::WebSocket;
        if let Mind::Native(native) = &mut self.mind {
            native.identity = Some(identity.clone());
            native.warned = false;
            wire = native.wire;
        }
        self.set_expiry_alarm();
        // What was asked before this hello stays before it.
        self.post();
        let connection = self.connection.borrow().id;
        self.connection.borrow_mut().letter_sent();
        let silent = silent && again;
        self.house.chat.do_send(Open { connection, identity, i, again, silent, session, wire });
    }

    pub(super) fn auth(&mut self, reference: Reference, token: &str) {
        let identity = self.verify(token).and_then(|identity| self.keeps_user(identity));
        match identity {
            Err(problem) => self.refuse(reference, problem),
            Ok(identity) => {
                self.take_identity(None, identity, true, None);
                self.push(reference, What::Done);
            }
        }
    }

    /// Checks a token. Signatures are dear, so a client may show a few a second only.
    pub(super) fn verify(&mut self, token: &str) -> Result<Identity, Problem> {
        let now = self.house.core.borrow().now_ms();
        if let Mind::Native(native) = &mut self.mind {
            native.tokens.take(TOKENS_PER_SECOND, now).map_err(|fast| Problem::too_fast(fast.wait_ms))?;
        }
        self.house.check_token(token)
    }

    pub(super) fn guest(&self, user: Option<&str>) -> Result<Identity, Problem> {
        match self.may_be_guest() {
            true => guest_named(user),
            false => Err(Problem::who_are_you()),
        }
    }

    /// A newcomer's first line may be a join: then he is a guest, if guests may come.
    pub(super) fn come_as_guest(&mut self) {
        if self.may_be_guest() {
            self.hello(&Reference::default(), Claim::default());
        }
    }

    pub(super) fn may_be_guest(&self) -> bool {
        matches!(&self.mind, Mind::Native(native) if native.guest)
    }

    pub(super) fn set_expiry_alarm(&mut self) {
        let Some(expires_at) = self.identity().and_then(|identity| identity.expires_at) else {
            self.connection.borrow_mut().alarm_at_ms = 0;
            return;
        };
        let warned = matches!(&self.mind, Mind::Native(native) if native.warned);
        let notice = if warned { 0 } else { EXPIRY_NOTICE_S };
        let in_seconds = expires_at.saturating_sub(notice).saturating_sub(now_unix());
        let now = self.house.core.borrow().now_ms();
        // At least a millisecond ahead, because an alarm at 0 is none.
        self.house
            .core
            .borrow_mut()
            .set_alarm(&self.connection, now.saturating_add(in_seconds.saturating_mul(1_000).max(1)));
    }

    pub(super) fn alarm(&mut self) {
        // It may have rung in the moment in which the hub closed the connection.
        if self.told_closed || !self.connection.borrow().is_open() {
            return;
        }
        let Some(identity) = self.identity().cloned() else {
            if !self.is_held() {
                self.come_as_guest();
            }
            if self.identity().is_none() && !self.is_held() {
                self.house.core.borrow_mut().close(&self.connection, Goodbye::NO_HELLO);
            }
            return;
        };
        let Some(expires_at) = identity.expires_at else {
            return;
        };
        let left = expires_at.saturating_sub(now_unix());
        if left == 0 {
            return self.house.core.borrow_mut().close(&self.connection, Goodbye::EXPIRED);
        }
        if let Mind::Native(native) = &mut self.mind
            && !native.warned
        {
            native.warned = true;
            let mut line = Vec::new();
            frames::expiring(&mut line, left);
            self.send_line(&line);
        }
        self.set_expiry_alarm();
    }
}
