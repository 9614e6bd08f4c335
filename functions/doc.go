// Package functions is the control plane: functions, their versions, aliases, tags and concurrency settings, with the
// behaviour of Lambda's own. It keeps all of its state in a metadata store and a blob store, and offers the data plane a
// Catalog, a stream of what exists.
//
// # Invariants
//
//  1. All changes of one function are ordered: each is a conditional commit on the function's head record, so no update is
//     lost and no version or alias is added to a function that is gone.
//  2. A change that was answered without an error is in the metadata store, and every later read sees it.
//  3. A code archive that any record refers to, or that a running request is about to refer to, is never collected.
//  4. The reserved concurrency of an account leaves at least MinUnreserved units to functions without a reservation.
//  5. A FunctionID is never used twice, and a VersionKey names one content and one isolation for ever.
//  6. No version is run under less isolation than its function's tag asks for, or than the region allows (isolation.go).
//
// # Records
//
//	functions/head/ACCOUNT/NAME    the function, its $LATEST, tags, settings, the next version number
//	functions/version/ID/NUMBER    a published version, NUMBER padded so that keys sort as numbers do
//	functions/alias/ID/NAME        an alias
//	functions/account/ACCOUNT      the sum of the account's reservations
//	functions/sequence             touched by each change that the catalogue shows: its revision is the catalogue's
//
// Deleting a function deletes its head; versions and aliases of an ID that no head has are invisible at once, and are
// swept afterwards.
package functions
