//! What the operator wrote: YAML read once into a tree of spanned nodes, bound to typed configs; never seen by a request.
