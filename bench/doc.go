// Package bench measures a region beside floors of the same run, so that its figures can be read as ratios on any machine:
// a plain net/http echo, which is what a request costs at all, and a bare Runtime API loop, which is what a function costs
// without sandbox or services.
package bench
