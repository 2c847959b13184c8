//! What is true of a manifest only as a whole: names that are there once, and that what is named is there.

use super::{
    super::{START, diagnostic::Code, yaml::At},
    spot::{Out, Spot, meant},
};

/// Something that is said at a place.
#[derive(Debug)]
pub struct Said<T> {
    pub what: T,
    path: String,
    at: At,
}

/// What the manifest declares and refers to, also where it is wrong otherwise: one mistake is told once.
#[derive(Debug, Default)]
pub struct Names {
    pub has_start_command: bool,
    pub actions: Vec<String>,
    services: Vec<Service>,
    start_ports: Vec<u16>,
    /// Of the start command and services, which listen in one sandbox.
    ports: Vec<Said<u16>>,
    taken: Vec<Said<String>>,
    requires_start: Vec<Said<()>>,
    launched: Vec<Said<String>>,
}

#[derive(Debug)]
struct Service {
    name: String,
    ports: Vec<u16>,
    depends_on: Vec<Said<String>>,
}

impl<T> Said<T> {
    pub fn new(what: T, spot: &Spot<'_>) -> Self {
        Self { what, path: spot.path.clone(), at: spot.node.at }
    }

    fn wrong(&self, out: &mut Out, code: Code, message: impl Into<String>) {
        out.push(self.path.as_str(), self.at, code, message);
    }
}

impl Names {
    pub fn take(&mut self, name: &str, spot: &Spot<'_>) {
        self.taken.push(Said::new(name.to_owned(), spot));
    }

    pub fn requires_start(&mut self, spot: &Spot<'_>) {
        self.requires_start.push(Said::new((), spot));
    }

    pub fn start(&mut self, ports: Vec<Said<u16>>) {
        self.start_ports = ports.iter().map(|port| port.what).collect();
        self.ports.extend(ports);
    }

    pub fn service(&mut self, name: &str, ports: Vec<Said<u16>>, depends_on: Vec<Said<String>>) {
        self.services.push(Service { name: name.to_owned(), ports: ports.iter().map(|port| port.what).collect(), depends_on });
        self.ports.extend(ports);
    }

    pub fn launch(&mut self, names: Vec<Said<String>>) {
        self.launched = names;
    }

    pub fn has_service(&self, name: &str) -> bool {
        self.services.iter().any(|service| service.name == name)
    }

    pub fn service_names(&self) -> impl Iterator<Item = &str> {
        self.services.iter().map(|service| service.name.as_str())
    }

    /// The ports of a service, or of the start command.
    pub fn ports_of(&self, service: Option<&str>) -> &[u16] {
        match service {
            None => &self.start_ports,
            Some(name) => self.services.iter().find(|service| service.name == name).map_or(&[], |service| &service.ports),
        }
    }

    pub fn check(&self, out: &mut Out) {
        for (index, name) in self.taken.iter().enumerate() {
            if name.what == START {
                name.wrong(out, Code::ReservedName, "is the name of the start command; choose another");
            } else if self.taken[..index].iter().any(|before| before.what == name.what) {
                name.wrong(out, Code::DuplicateName, format!("{:?} is the name of another action or service; their names are unique together", name.what));
            }
        }
        for (index, port) in self.ports.iter().enumerate() {
            if self.ports[..index].iter().any(|before| before.what == port.what) {
                port.wrong(out, Code::DuplicatePort, format!("{} is declared twice; the start command and services share one sandbox", port.what));
            }
        }
        if !self.has_start_command {
            for place in &self.requires_start {
                place.wrong(out, Code::RequiresStartWithoutStart, "there is no start.command that could be started");
            }
        }
        self.check_services(out);
    }

    fn check_services(&self, out: &mut Out) {
        for names in self.services.iter().map(|service| &service.depends_on).chain([&self.launched]) {
            for (index, name) in names.iter().enumerate() {
                if names[..index].iter().any(|before| before.what == name.what) {
                    name.wrong(out, Code::DuplicateName, format!("{:?} stands twice in this list", name.what));
                } else if name.what == START {
                    name.wrong(out, Code::UnknownService, "the start command is no service; say requiresStart: true");
                } else if !self.has_service(&name.what) {
                    name.wrong(out, Code::UnknownService, format!("there is no service {:?}{}", name.what, meant(&name.what, self.service_names())));
                }
            }
        }
        for (from, chain) in self.cycles() {
            from.wrong(out, Code::DependencyCycle, format!("services depend on one another: {}", chain.join(" -> ")));
        }
    }

    /// Of each circle the dependency that closes it, and the names around it. Services that share a circle are told once.
    fn cycles(&self) -> Vec<(&Said<String>, Vec<&str>)> {
        #[derive(Clone, Copy, PartialEq)]
        enum State {
            New,
            Entered,
            Left,
        }
        let mut cycles = Vec::new();
        let mut states = vec![State::New; self.services.len()];
        for first in 0..self.services.len() {
            // Services that were entered, and how many of their dependencies were followed.
            let mut path: Vec<(usize, usize)> = Vec::new();
            if states[first] == State::New {
                states[first] = State::Entered;
                path.push((first, 0));
            }
            while let Some((service, followed)) = path.last_mut() {
                let service = *service;
                let Some(dependency) = self.services[service].depends_on.get(*followed) else {
                    states[service] = State::Left;
                    path.pop();
                    continue;
                };
                *followed += 1;
                let Some(next) = self.services.iter().position(|service| service.name == dependency.what) else { continue };
                match states[next] {
                    State::New => {
                        states[next] = State::Entered;
                        path.push((next, 0));
                    }
                    State::Entered => {
                        let around = path.iter().map(|(service, _)| *service).skip_while(|service| *service != next);
                        let mut chain: Vec<&str> = around.map(|service| self.services[service].name.as_str()).collect();
                        chain.push(&self.services[next].name);
                        cycles.push((dependency, chain));
                    }
                    State::Left => {}
                }
            }
        }
        cycles
    }
}
