// The functions that fork.go declares without a body are the runtime's. The compiler takes such declarations only in a package
// that has an assembly file.
