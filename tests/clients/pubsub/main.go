// Google's own stand-in for Pub/Sub as a process of its own. It keeps everything in memory and speaks gRPC; beside it
// stands a small HTTP server by which a test pushes, and sees what was delivered and acknowledged.
//
//	pubsub GRPC_PORT HTTP_PORT
//
//	PUT  /topics/T?subscription=S&ordered=true  makes a topic with a subscription, both of the project "p"
//	POST /topics/T?key=K                        publishes the body; each other parameter is an attribute
//	GET  /messages                              everything that was ever published, oldest first, as JSON
//	DELETE /leases?subscription=S               ends the time for which what was given out is somebody's
package main

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"

	pb "cloud.google.com/go/pubsub/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/pstest"
)

const project = "projects/p/"

type stage struct{ server *pstest.Server }

// shown is a message as tests read it.
type shown struct {
	Data       string            `json:"data"`
	Attributes map[string]string `json:"attributes"`
	Key        string            `json:"key"`
	Deliveries int               `json:"deliveries"`
	Acks       int               `json:"acks"`
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: pubsub GRPC_PORT HTTP_PORT")
	}
	port, err := strconv.Atoi(os.Args[1])
	if err != nil {
		log.Fatalf("the port of gRPC: %v", err)
	}
	stage := stage{server: pstest.NewServerWithPort(port)}
	http.HandleFunc("/topics/", stage.topics)
	http.HandleFunc("/messages", stage.messages)
	http.HandleFunc("/leases", stage.leases)
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[2], nil))
}

func (s stage) topics(w http.ResponseWriter, r *http.Request) {
	topic := project + strings.TrimPrefix(r.URL.Path, "/")
	if r.Method == http.MethodPut {
		s.make(w, r, topic)
		return
	}
	data, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	attributes := map[string]string{}
	for name, values := range r.URL.Query() {
		if name != "key" {
			attributes[name] = values[0]
		}
	}
	message := &pb.PubsubMessage{Data: data, Attributes: attributes, OrderingKey: r.URL.Query().Get("key")}
	request := &pb.PublishRequest{Topic: topic, Messages: []*pb.PubsubMessage{message}}
	if _, err := s.server.GServer.Publish(context.Background(), request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

func (s stage) make(w http.ResponseWriter, r *http.Request, topic string) {
	asked := r.URL.Query()
	if _, err := s.server.GServer.CreateTopic(context.Background(), &pb.Topic{Name: topic}); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if asked.Get("subscription") == "" {
		return
	}
	subscription := &pb.Subscription{
		Name:                  project + "subscriptions/" + asked.Get("subscription"),
		Topic:                 topic,
		AckDeadlineSeconds:    10,
		EnableMessageOrdering: asked.Get("ordered") == "true",
	}
	if _, err := s.server.GServer.CreateSubscription(context.Background(), subscription); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

// leases takes back what is not acknowledged. Of what is, or was never given out, nothing changes.
func (s stage) leases(w http.ResponseWriter, r *http.Request) {
	ids := []string{}
	for _, m := range s.server.Messages() {
		if m.Acks == 0 {
			ids = append(ids, m.ID)
		}
	}
	request := &pb.ModifyAckDeadlineRequest{
		Subscription: project + "subscriptions/" + r.URL.Query().Get("subscription"),
		AckIds:       ids,
	}
	if _, err := s.server.GServer.ModifyAckDeadline(context.Background(), request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

func (s stage) messages(w http.ResponseWriter, _ *http.Request) {
	all := []shown{}
	for _, m := range s.server.Messages() {
		all = append(all, shown{string(m.Data), m.Attributes, m.OrderingKey, m.Deliveries, m.Acks})
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(all); err != nil {
		log.Printf("a reader has gone: %v", err)
	}
}
