// Command server answers iris predictions over HTTP: the model of the iris example.
//
//	POST /       {"data":{"req_data":[{"sepal_length":5.1,"sepal_width":3.5,"petal_length":1.4,"petal_width":0.2}]}}
//	             {"data":{"resp_data":[{"predictresult":"setosa"}]}}
//	GET /health  200 once it serves
//
// It listens on PORT, 8080 by default, logs each request, and on SIGTERM finishes what it is answering. The
// weights in weights.json are made by ../train.
package main
