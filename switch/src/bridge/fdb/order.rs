//! Which entry of a port is the oldest: one doubly linked list a port for
//! dynamic entries, one for static ones, over a fixed set of nodes.
//!
//! Deliberately absent: the entries' stamps and any rule; lists only keep the
//! order that `fdb` tells them.

use std::ops::Range;

use crate::bridge::{PORTS_MAX, PortId};

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Node {
    /// The entry's key; of no meaning while the node is free.
    word: u64,
    prev: u32,
    next: u32,
}

/// Which of a port's two lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    Dynamic,
    Fixed,
}

#[derive(Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
}

impl List {
    const EMPTY: List = List { head: NONE, tail: NONE };
}

pub(super) struct Order {
    nodes: Vec<Node>,
    /// Nodes given back, linked by `next`.
    free: u32,
    dynamic: Box<[List; PORTS_MAX]>,
    fixed: Box<[List; PORTS_MAX]>,
    /// Dynamic entries of each port.
    lens: [u32; PORTS_MAX],
}

impl Order {
    /// Lists for at most `capacity` entries; no memory is asked for later.
    pub fn new(capacity: u32) -> Order {
        Order {
            nodes: Vec::with_capacity(capacity as usize),
            free: NONE,
            dynamic: Box::new([List::EMPTY; PORTS_MAX]),
            fixed: Box::new([List::EMPTY; PORTS_MAX]),
            lens: [0; PORTS_MAX],
        }
    }

    /// Number of dynamic entries of `port`.
    #[inline]
    pub fn len(&self, port: PortId) -> u32 {
        self.lens[port.index()]
    }

    /// The port with the most dynamic entries, the lowest number if several.
    pub fn fullest(&self) -> PortId {
        let most = self.lens.iter().copied().max().unwrap_or(0);
        let index = self.lens.iter().position(|len| *len == most).unwrap_or(0);
        // The array has 256 elements.
        PortId::new(u8::try_from(index).unwrap_or(u8::MAX))
    }

    /// Key of the first entry of a list: the oldest.
    pub fn first(&self, class: Class, port: PortId) -> Option<u64> {
        self.iter(class, port).next()
    }

    /// Keys of a list, oldest first.
    pub fn iter(&self, class: Class, port: PortId) -> impl Iterator<Item = u64> {
        let mut at = self.list(class, port).head;
        std::iter::from_fn(move || {
            let node = self.nodes.get(at as usize)?;
            at = node.next;
            Some(node.word)
        })
    }

    /// Nodes that were ever in use; those given back among them.
    pub fn nodes_len(&self) -> u32 {
        // At most 1,048,575 nodes.
        u32::try_from(self.nodes.len()).unwrap_or(NONE)
    }

    /// Where all nodes that there can be lie.
    pub fn memory(&self) -> Range<*const u8> {
        let start = self.nodes.as_ptr();
        start.cast()..start.wrapping_add(self.nodes.capacity()).cast()
    }

    /// The key that `node` has, or had before it was given back.
    pub fn word(&self, node: u32) -> Option<u64> {
        self.nodes.get(node as usize).map(|node| node.word)
    }

    /// Adds a node as the youngest of a list.
    pub fn push(&mut self, class: Class, port: PortId, word: u64) -> u32 {
        let node = if self.free == NONE {
            debug_assert!(self.nodes.len() < self.nodes.capacity(), "never more nodes than entries");
            self.nodes.push(Node { word, prev: NONE, next: NONE });
            // At most 1,048,575 nodes.
            u32::try_from(self.nodes.len() - 1).unwrap_or(NONE)
        } else {
            let node = self.free;
            self.free = self.nodes[node as usize].next;
            self.nodes[node as usize].word = word;
            node
        };
        self.link(class, port, node);
        node
    }

    /// Takes a node out of its list and gives it back.
    pub fn remove(&mut self, class: Class, port: PortId, node: u32) {
        self.unlink(class, port, node);
        self.nodes[node as usize].next = self.free;
        self.free = node;
    }

    /// Loads a node; see `Index::touch`.
    #[inline]
    pub fn touch(&self, node: u32) {
        std::hint::black_box(self.nodes[node as usize].prev);
    }

    /// Loads the neighbours of a node that was loaded before.
    #[inline]
    pub fn touch_neighbours(&self, node: u32) {
        let Node { prev, next, .. } = self.nodes[node as usize];
        for neighbour in [prev, next] {
            if let Some(node) = self.nodes.get(neighbour as usize) {
                std::hint::black_box(node.prev);
            }
        }
    }

    /// Makes a node the youngest of another list, or again of its own.
    pub fn relink(&mut self, from: (Class, PortId), to: (Class, PortId), node: u32) {
        self.unlink(from.0, from.1, node);
        self.link(to.0, to.1, node);
    }

    fn link(&mut self, class: Class, port: PortId, node: u32) {
        let tail = self.list(class, port).tail;
        self.nodes[node as usize].prev = tail;
        self.nodes[node as usize].next = NONE;
        match self.nodes.get_mut(tail as usize) {
            Some(last) => last.next = node,
            None => self.list_mut(class, port).head = node,
        }
        self.list_mut(class, port).tail = node;
        if class == Class::Dynamic {
            self.lens[port.index()] += 1;
        }
    }

    fn unlink(&mut self, class: Class, port: PortId, node: u32) {
        let Node { prev, next, .. } = self.nodes[node as usize];
        match self.nodes.get_mut(prev as usize) {
            Some(before) => before.next = next,
            None => self.list_mut(class, port).head = next,
        }
        match self.nodes.get_mut(next as usize) {
            Some(after) => after.prev = prev,
            None => self.list_mut(class, port).tail = prev,
        }
        if class == Class::Dynamic {
            self.lens[port.index()] -= 1;
        }
    }

    fn list(&self, class: Class, port: PortId) -> &List {
        match class {
            Class::Dynamic => &self.dynamic[port.index()],
            Class::Fixed => &self.fixed[port.index()],
        }
    }

    fn list_mut(&mut self, class: Class, port: PortId) -> &mut List {
        match class {
            Class::Dynamic => &mut self.dynamic[port.index()],
            Class::Fixed => &mut self.fixed[port.index()],
        }
    }
}
