module github.com/osse101/usercache

go 1.26
